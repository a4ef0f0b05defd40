"""ollad as a service of a real systemd, from the package that ``make deb`` makes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.system.guarded import run_guarded
from tests.system.systemd.package import build_package, debian_python

HERE = Path(__file__).parent
BOOT_SECONDS = 300
CANNOT = 77
"""What boot.sh exits with where the machine has not what it needs."""


@pytest.mark.timeout(600)
def test_the_service_behaves_under_a_real_systemd() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to boot a systemd of its own")
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    if debian_python() is None:
        pytest.skip("needs Debian's Python, 3.11 or later and with venv")
    package = build_package()
    code, output = run_guarded(
        ["bash", str(HERE / "boot.sh"), str(HERE / "checks.sh"), str(package)], BOOT_SECONDS
    )
    print(output)
    if code == CANNOT:
        pytest.skip(output.partition("SKIP: ")[2].partition("\n")[0])
    failures = [line for line in output.splitlines() if line.startswith("FAIL")]
    assert not failures, output
    assert code == 0, output
