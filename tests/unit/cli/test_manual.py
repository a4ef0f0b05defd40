from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ollad import __version__
from ollad.cli import make_parser
from ollad.cli.manual import command_page, configuration_page, main
from ollad.config.describe import entries, sections
from ollad.config.schema import Config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

DATE = "2026-11-22"
MACROS = {"TH", "SH", "SS", "TP", "PP", "B", "BR", "I", "RI", "br", "nh", "EX", "EE"}


def readable(page: str) -> str:
    """A page without what roff wants escaped."""
    for escape, char in ((r"\-", "-"), (r"\(aq", "'"), (r"\(dq", '"'), (r"\&", ""), (r"\e", "\\")):
        page = page.replace(escape, char)
    return page


def commands(
    parser: argparse.ArgumentParser, name: str = "ollad"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that can be run, by its full name."""
    below = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        yield name, parser
    for choices in below:
        for word, one in choices.items():
            yield from commands(one, f"{name} {word}")


def test_every_command_and_option_is_in_the_manual() -> None:
    page = readable(command_page(DATE))
    told = list(commands(make_parser()))
    assert len(told) > 5
    for name, parser in told:
        _, _, section = page.partition(f".SS {name}\n")
        section = re.split(r"^\.S[SH] ", section, flags=re.MULTILINE)[0]
        assert section, name
        for action in parser._actions[1:]:  # the first is --help
            for option in action.option_strings or [str(action.metavar)]:
                assert option in section, (name, option)


def test_every_exit_code_is_in_the_manual() -> None:
    _, _, after = command_page(DATE).partition(".SH EXIT STATUS\n")
    assert re.findall(r"\d+", after.partition("\n.SH")[0]) == ["0", "1", "2", "69", "78"]


@pytest.mark.parametrize(("path", "section"), [pair for pair in sections() if entries(*pair)])
def test_every_key_is_in_the_manual_with_its_default(path: str, section: type) -> None:
    page = readable(configuration_page(DATE))
    _, _, part = page.partition(f".SS {path}\n")
    part = re.split(r"^\.S[SH] ", part, flags=re.MULTILINE)[0]
    for key in entries(path, section):
        (line,) = [one for one in part.split("\n") if one.startswith(f".BR {key.name} ")]
        assert key.default.replace("`", "").strip("*") in line
        assert key.meaning.split()[-1].strip("`") in part


def test_no_part_of_the_configuration_is_left_out() -> None:
    assert {section for _, section in sections()} > {Config}


@pytest.mark.parametrize("page", [command_page(DATE), configuration_page(DATE)])
def test_no_line_is_a_request_by_accident(page: str) -> None:
    for line in page.split("\n"):
        assert not line.startswith("'")
        if line.startswith("."):
            assert line[1:].split(" ")[0] in MACROS, line


@pytest.mark.parametrize("page", [command_page(DATE), configuration_page(DATE)])
def test_dashes_can_be_copied_into_a_shell(page: str) -> None:
    assert not re.search(r"[^\\]-", page.replace(DATE, ""))


def test_the_pages_are_written_with_the_date_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795348800")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/builder")
    assert main(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ollad.8", "ollad.yaml.5"]
    for path in tmp_path.iterdir():
        assert f'{DATE} "ollad {__version__}"' in path.read_text()
        assert "builder" not in path.read_text()


def test_the_checker_of_manual_pages_finds_nothing(tmp_path: Path) -> None:
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("needs mandoc")
    subprocess.run(
        [sys.executable, "-m", "ollad.cli.manual", str(tmp_path)], check=True, timeout=30
    )
    pages = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [mandoc, "-Tlint", "-Wall", *pages], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == ""
    assert done.returncode == 0
