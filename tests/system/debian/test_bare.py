"""A fresh clone on a bare Debian 12: what the README says, and the package that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.guarded import run_guarded

HERE = Path(__file__).parent
SOURCE = HERE.parents[2]
SECONDS = 780
PACKAGE_SECONDS = 480
CANNOT = 77
"""What bare.sh exits with where the machine has not what it needs."""


def on_a_bare_debian(what: str, seconds: float) -> str:
    """What was said there, if it went well."""
    code, output = run_guarded(["bash", str(HERE / "bare.sh"), str(SOURCE), what], seconds)
    print(output)
    if code == CANNOT:
        pytest.skip(output.partition("SKIP: ")[2].partition("\n")[0])
    assert code == 0, output
    return output


@pytest.mark.timeout(540)
def test_the_package_made_there_is_installed_serves_and_leaves_nothing() -> None:
    output = on_a_bare_debian("package", PACKAGE_SECONDS)
    assert "make deb: done" in output
    assert "PASS nothing is left" in output
    assert "FAIL" not in output


@pytest.mark.timeout(840)
def test_the_two_commands_of_the_readme_work_in_a_fresh_clone() -> None:
    output = on_a_bare_debian("person", SECONDS)
    assert "make run: up" in output
    assert "make test: passed" in output
