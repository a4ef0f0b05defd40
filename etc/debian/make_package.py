# ruff: noqa: INP001 - a script, not a module of a package
"""Wrap what ``make install`` staged into a Debian package.

``make_package.py ROOT FOLDER``: ROOT is the staged tree, which is changed; the package goes to
FOLDER. What runs this is the Python that the package will depend on. Needs nothing but dpkg.

``DEBFULLNAME`` and ``DEBEMAIL`` name the maintainer, as for Debian's own tools; the date in it is
that of ``SOURCE_DATE_EPOCH``, if that is set.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from email.parser import HeaderParser
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE.parents[1]
LIBRARIES: Final = "usr/lib/ollad"
DOCUMENTS: Final = "usr/share/doc/ollad"

COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: ollad

Files: *
Copyright: 2026 the authors of ollad
License: Apache-2.0
 On Debian systems, the text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
"""
LIBRARY: Final = """
Files: {files}
Copyright: {author}
License: {license}
Comment: {name} {version}; the text of its licence is in
 /{info}.
"""
COMPILED: Final = """
Files: usr/lib/ollad/ollad__mypyc.*
Copyright: 2026 the authors of ollad
           2012-2023 Jukka Lehtosalo and contributors
           2015-2023 Dropbox, Inc.
License: Apache-2.0 and MIT and PSF-2.0
Comment: ollad, compiled by mypyc, whose runtime library is part of it; the text of that one's
 licences is in /usr/lib/ollad/ollad__mypyc.LICENSE.
"""
CHANGELOG: Final = """\
ollad ({version}) {release}; urgency=medium

  * What is new stands in /usr/share/doc/ollad/CHANGELOG.md.gz.

 -- {maintainer}  {date}
"""


def said(*command: str) -> str:
    """What a command prints, without the line's end."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - ours
    return done.stdout.strip()


def python_package(interpreter: str) -> str:
    """The package that holds ``interpreter`` and its standard library.

    Raises:
        SystemExit: none does.
    """
    found = subprocess.run(  # noqa: S603 - its own path
        ["/usr/bin/dpkg-query", "--search", interpreter],
        check=False,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise SystemExit(
            f"{interpreter} is of no Debian package, so that a package cannot depend on it. "
            "Name one that is: make deb PYTHON=/usr/bin/python3"
        )
    return found.stdout.partition(":")[0].removesuffix("-minimal")


def libc(root: Path) -> str:
    """The dependency on the C library: on the newest version that a compiled part asks for."""
    asked = {
        (int(major), int(minor))
        for path in root.rglob("*.so*")
        for major, minor in re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())
    }
    major, minor = max(asked)
    return f"libc6 (>= {major}.{minor})"


def release() -> dict[str, str]:
    """``/etc/os-release``."""
    lines = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {name: value.strip('"') for name, _, value in pairs}


def version(root: Path) -> str:
    """That of ollad, and the release of Debian whose Python its compiled parts fit."""
    (info,) = (root / LIBRARIES).glob("ollad-*.dist-info")
    number = info.name.split("-")[1].removesuffix(".dist")
    debian = release().get("VERSION_ID", "")
    return f"{number}+deb{debian}" if debian else number


def licences(root: Path) -> Iterator[str]:
    """A paragraph about each library, from what its authors say of it."""
    for info in sorted((root / LIBRARIES).glob("*.dist-info")):
        told = HeaderParser().parsestr((info / "METADATA").read_text())
        if told["Name"] == "ollad":
            continue
        tops = {
            line.split(",")[0].split("/")[0]
            for line in (info / "RECORD").read_text().splitlines()
            if not line.startswith(("..", "bin/"))
        }
        files = " ".join(
            f"{LIBRARIES}/{top}/*" if (root / LIBRARIES / top).is_dir() else f"{LIBRARIES}/{top}"
            for top in sorted(tops)
        )
        licence = told["License-Expression"] or told["License"] or "see-comment"
        author = told["Author"] or told["Author-email"] or f"the authors of {told['Name']}"
        yield LIBRARY.format(
            files=files,
            author=" ".join(author.split()),
            license=" ".join(licence.splitlines()[0].split()).replace(" ", "-"),
            name=told["Name"],
            version=told["Version"],
            info=f"{LIBRARIES}/{info.name}",
        )
    if (root / LIBRARIES / "ollad__mypyc.LICENSE").exists():
        yield COMPILED


def compress(path: Path) -> None:
    """As Debian wants documents: in gzip's smallest form and without a time."""
    data = gzip.compress(path.read_bytes(), 9, mtime=0)
    path.with_name(f"{path.name}.gz").write_bytes(data)
    path.unlink()


def adapt(root: Path, number: str, maintainer: str) -> None:
    """Bring the staged tree into the form of a package."""
    documents = root / DOCUMENTS
    for folder in sorted(root.rglob("__pycache__")):
        shutil.rmtree(folder)  # postinst compiles
    (documents / "LICENSE").unlink()
    (documents / "copyright").write_text(COPYRIGHT + "".join(licences(root)))
    moment = float(os.environ.get("SOURCE_DATE_EPOCH", "") or time.time())
    (documents / "changelog").write_text(
        CHANGELOG.format(
            version=number,
            release=release().get("VERSION_CODENAME", "unstable"),
            maintainer=maintainer,
            date=formatdate(moment),
        )
    )
    compress(documents / "changelog")
    compress(documents / "CHANGELOG.md")
    for page in sorted((root / "usr/share/man").rglob("*.[0-9]")):
        compress(page)
    overrides = root / "usr/share/lintian/overrides/ollad"
    overrides.parent.mkdir(parents=True)
    shutil.copyfile(HERE / "lintian-overrides", overrides)


def files(root: Path) -> list[Path]:
    """The files of the package, not those about it."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if "DEBIAN" not in path.relative_to(root).parts)


def describe(root: Path, values: dict[str, str]) -> None:
    """Write ``DEBIAN/``, with ``values`` in the place of ``@NAME@``."""
    folder = root / "DEBIAN"
    folder.mkdir()
    sizes = sum(-(-path.stat().st_size // 1024) for path in files(root))
    values = {**values, "SIZE": str(sizes)}
    for name in ("control", "postinst", "prerm", "postrm"):
        template = HERE / (f"{name}.in" if name == "control" else name)
        text = re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template.read_text())
        (folder / name).write_text(text)
    configuration = [f"/{path.relative_to(root)}" for path in files(root / "etc")]
    (folder / "conffiles").write_text("".join(f"{name}\n" for name in configuration))
    sums = (
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  "
        f"{path.relative_to(root)}\n"
        for path in files(root)
        if f"/{path.relative_to(root)}" not in configuration
    )
    (folder / "md5sums").write_text("".join(sums))


def permit(root: Path) -> None:
    """Set permissions, whatever the umask; what is configuration keeps those it was given."""
    for path in sorted(root.rglob("*")):
        if path.is_relative_to(root / "etc/ollad"):
            continue
        if path.is_dir():
            path.chmod(0o755)
        else:
            runs = path.parent.name in {"bin", "DEBIAN"} and path.read_bytes()[:2] == b"#!"
            path.chmod(0o755 if runs else 0o644)


def main(root: Path, folder: Path) -> None:
    """Make the package and say where it is."""
    name = os.environ.get("DEBFULLNAME", "the authors of ollad")
    maintainer = f"{name} <{os.environ.get('DEBEMAIL', 'ollad@ollad.invalid')}>"
    interpreter = os.path.realpath(sys.executable)
    values = {
        "VERSION": version(root),
        "ARCHITECTURE": said("dpkg", "--print-architecture"),
        "MAINTAINER": maintainer,
        "PYTHON": interpreter,
        "PYTHON_PACKAGE": python_package(interpreter),
        "LIBC": libc(root),
    }
    adapt(root, values["VERSION"], maintainer)
    describe(root, values)
    permit(root)
    folder.mkdir(exist_ok=True)
    package = folder / f"ollad_{values['VERSION']}_{values['ARCHITECTURE']}.deb"
    said("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(root), str(package))
    sys.stdout.write(f"{package}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
