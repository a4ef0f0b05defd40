"""What ``make deb`` makes, looked at without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

import ollad
from tests.system.systemd.package import SOURCE, build_package, debian_python

LINTIAN_SECONDS = 170


@pytest.fixture(scope="module")
def package() -> Path:
    if debian_python() is None:
        pytest.skip("needs Debian's Python, 3.11 or later and with venv")
    before = os.umask(0o077)
    try:
        return build_package()
    finally:
        os.umask(before)


def told(package: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["dpkg-deb", *arguments, str(package)], check=True, capture_output=True, timeout=60
    ).stdout


@pytest.fixture(scope="module")
def members(package: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=BytesIO(told(package, "--fsys-tarfile"))) as archive:
        return {member.name.removeprefix("."): member for member in archive}


def test_it_depends_on_the_python_that_its_compiled_parts_fit(package: Path) -> None:
    fields = told(package, "--field").decode()
    minor = subprocess.run(
        [debian_python() or "", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert f"Depends: {minor}, libc6 (>= 2." in fields
    assert f"Version: {ollad.__version__}+deb" in fields


def test_everything_is_roots_and_readable_but_the_configuration(
    members: dict[str, tarfile.TarInfo],
) -> None:
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    modes = {name: member.mode & 0o7777 for name, member in members.items()}
    assert modes.pop("/etc/ollad/ollad.yaml") == 0o640
    assert modes.pop("/etc/ollad/credentials") == 0o700
    assert modes.pop("/usr/bin/ollad") == 0o755
    odd = {
        name: oct(mode)
        for name, mode in modes.items()
        if mode != (0o755 if members[name].isdir() else 0o644)
    }
    assert odd == {}


def test_manual_completions_units_and_no_byte_code_are_inside(
    members: dict[str, tarfile.TarInfo],
) -> None:
    assert {
        "/lib/systemd/system/ollad.service",
        "/lib/systemd/system/ollad.socket",
        "/usr/lib/sysusers.d/ollad.conf",
        "/usr/share/man/man8/ollad.8.gz",
        "/usr/share/man/man5/ollad.yaml.5.gz",
        "/usr/share/bash-completion/completions/ollad",
        "/usr/share/zsh/vendor-completions/_ollad",
        "/usr/share/doc/ollad/copyright",
        "/usr/share/doc/ollad/changelog.gz",
    } <= members.keys()
    assert not [name for name in members if name.endswith((".pyc", "__pycache__"))]


def test_what_every_request_goes_through_is_compiled(members: dict[str, tarfile.TarInfo]) -> None:
    python = debian_python() or ""
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    include = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout
    if not Path(include.strip(), "Python.h").exists() or shutil.which("gcc") is None:
        pytest.skip("needs gcc and Python's headers")
    compiled = {name.partition(".cpython-")[0] for name in members if ".cpython-" in name}
    assert {"/usr/lib/ollad/ollad__mypyc", "/usr/lib/ollad/ollad/fastpath"} <= compiled
    assert "/usr/lib/ollad/ollad/fastpath.py" in members


def test_the_licence_of_every_library_is_told(
    members: dict[str, tarfile.TarInfo], package: Path
) -> None:
    with tarfile.open(fileobj=BytesIO(told(package, "--fsys-tarfile"))) as archive:
        stream = archive.extractfile("./usr/share/doc/ollad/copyright")
        assert stream is not None
        text = stream.read().decode()
    libraries = {
        name.removeprefix("/usr/lib/ollad/").partition("-")[0]
        for name in members
        if name.endswith(".dist-info")
    } - {"ollad"}
    assert len(libraries) > 10
    paragraphs = [part for part in text.split("\n\n") if part.startswith("Files: usr/lib/ollad/")]
    compiled = "/usr/lib/ollad/ollad__mypyc.LICENSE" in members
    assert len(paragraphs) == len(libraries) + compiled
    for paragraph in paragraphs:
        assert "\nLicense: " in paragraph
        assert "see-comment" not in paragraph


@pytest.mark.timeout(180)
def test_debians_own_critic_finds_nothing(package: Path) -> None:
    lintian = shutil.which("lintian")
    if lintian is None:
        pytest.skip("needs lintian")
    done = subprocess.run(
        [lintian, "--allow-root", "--fail-on", "error,warning", str(package)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LINTIAN_SECONDS,
    )
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_a_python_that_no_package_has_is_refused(tmp_path: Path) -> None:
    if debian_python() is None:
        pytest.skip("needs Debian's Python, 3.11 or later and with venv")
    python = tmp_path / "python3"
    shutil.copy(debian_python() or "", python)
    (tmp_path / "root/usr/lib/ollad/ollad-1.dist-info").mkdir(parents=True)
    done = subprocess.run(
        [str(python), str(SOURCE / "etc/debian/make_package.py"), str(tmp_path / "root"), "x"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "make deb PYTHON=/usr/bin/python3" in done.stderr
