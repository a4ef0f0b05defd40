"""ollad as ``make install`` lays it out, wrapped in the plainest of Debian packages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["SOURCE", "build_package", "make", "system_python"]

SOURCE = Path(__file__).parents[3]
MAKE_SECONDS = 180

CONTROL = """\
Package: ollad
Version: 0
Architecture: all
Maintainer: the tests of ollad <root@localhost>
Description: ollad for its tests
"""
POSTINST = """\
#!/bin/sh
set -e
systemd-sysusers ollad.conf
chgrp ollad /etc/ollad/ollad.yaml
systemctl daemon-reload
"""
PRERM = """\
#!/bin/sh
systemctl stop ollad.service
"""


def system_python() -> str | None:
    """A Python that a service can run, 3.11 or later and with venv; None if there is none."""
    program = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(python).exists():
            done = subprocess.run([python, "-c", program], check=False, capture_output=True)
            if done.returncode == 0:
                return python
    return None


def make(*arguments: str) -> str:
    """Run make in the source tree and return what it said; fails with that if it failed."""
    # make, called by make acceptance, must not take over that one's options
    environ = {name: text for name, text in os.environ.items() if name not in _MAKES_OWN}
    done = subprocess.run(
        ["make", "-C", str(SOURCE), *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAKE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


_MAKES_OWN = frozenset({"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"})


def build_package(python: str, folder: Path) -> Path:
    """Make ``ollad.deb`` in ``folder``."""
    root = folder / "root"
    make("install", f"DESTDIR={root}", "PREFIX=/usr", f"PYTHON={python}")
    debian = root / "DEBIAN"
    debian.mkdir()
    (debian / "control").write_text(CONTROL)
    (debian / "conffiles").write_text("/etc/ollad/ollad.yaml\n")
    for name, script in (("postinst", POSTINST), ("prerm", PRERM)):
        (debian / name).write_text(script)
        (debian / name).chmod(0o755)
    package = folder / "ollad.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(package)],
        check=True,
        capture_output=True,
    )
    return package
