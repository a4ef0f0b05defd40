"""ollad as ``make install`` and ``make deb`` make it of this source."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["DEBIAN_PYTHON", "SOURCE", "build_package", "debian_python", "make", "system_python"]

SOURCE = Path(__file__).parents[3]
MAKE_SECONDS = 240
DEBIAN_PYTHON = "/usr/bin/python3"


def system_python() -> str | None:
    """A Python that a service can run, 3.11 or later and with venv; None if there is none."""
    candidates = (DEBIAN_PYTHON, "/usr/local/bin/python3")
    return next((python for python in candidates if _serves(python)), None)


def debian_python() -> str | None:
    """Debian's own Python, if it is one that can run the service."""
    return DEBIAN_PYTHON if Path("/usr/bin/dpkg-deb").exists() and _serves(DEBIAN_PYTHON) else None


def _serves(python: str) -> bool:
    program = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    if not Path(python).exists():
        return False
    return not subprocess.run([python, "-c", program], check=False, capture_output=True).returncode


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


def build_package() -> Path:
    """The package that ``make deb`` makes."""
    said = make("deb", f"PYTHON={DEBIAN_PYTHON}")
    name = next(line for line in reversed(said.splitlines()) if line.endswith(".deb"))
    return SOURCE / name
