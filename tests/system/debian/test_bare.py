"""``make run`` and ``make test`` of a fresh clone on a bare Debian 12."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.guarded import run_guarded

HERE = Path(__file__).parent
SOURCE = HERE.parents[2]
SECONDS = 780
CANNOT = 77
"""What bare.sh exits with where the machine has not what it needs."""


@pytest.mark.timeout(840)
def test_the_two_commands_of_the_readme_work_in_a_fresh_clone() -> None:
    code, output = run_guarded(["bash", str(HERE / "bare.sh"), str(SOURCE)], SECONDS)
    print(output)
    if code == CANNOT:
        pytest.skip(output.partition("SKIP: ")[2].partition("\n")[0])
    assert code == 0, output
    assert "make run: up" in output
    assert "make test: passed" in output
