from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.cli import EX_UNAVAILABLE, main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_without_a_daemon_it_is_said_where_one_was_sought_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = tmp_path / "none.sock"
    assert main(["reload", "--control", str(socket)]) == EX_UNAVAILABLE
    assert capsys.readouterr().err == (
        f"ollad reload: no daemon answers at {socket}: No such file or directory. "
        "Start one with 'ollad serve', or say where it listens with --control.\n"
    )
