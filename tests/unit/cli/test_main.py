from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ollad import __version__
from ollad.cli import EX_INTERRUPTED, check, main

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

FILE = """\
endpoints:
  - url: http://127.0.0.1:1
    name: one
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "ollad.yaml"
    file.write_text(FILE)
    return file


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ollad {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--dance"], ["check", "extra"]])
def test_a_command_line_that_means_nothing_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: ollad" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["serve"], ["check"]])
def test_every_command_explains_itself(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: ollad" in capsys.readouterr().out


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert main(["check", "--config", str(config)]) == EX_INTERRUPTED
    assert capsys.readouterr().err == ""


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ollad", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ollad {__version__}\n"
