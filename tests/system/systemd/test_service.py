"""ollad as a service of a real systemd, installed by ``make install``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.system.guarded import run_guarded
from tests.system.systemd.package import build_package, system_python

HERE = Path(__file__).parent
BOOT_SECONDS = 240
CANNOT = 77
"""What boot.sh exits with where the machine has not what it needs."""


@pytest.mark.timeout(480)
def test_the_service_behaves_under_a_real_systemd(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd of its own")
    missing = [program for program in ("dpkg-deb", "curl") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    python = system_python()
    if python is None:
        pytest.skip("needs a Python 3.11 or later with venv outside of home directories")
    package = build_package(python, tmp_path)
    code, output = run_guarded(
        ["bash", str(HERE / "boot.sh"), str(HERE / "checks.sh"), str(package)], BOOT_SECONDS
    )
    print(output)
    if code == CANNOT:
        pytest.skip(output.partition("SKIP: ")[2].partition("\n")[0])
    failures = [line for line in output.splitlines() if line.startswith("FAIL")]
    assert not failures, output
    assert code == 0, output
