"""Completion of the command line for bash and zsh, made from the parser.

``python -m ollad.cli.completion FOLDER`` writes ``ollad`` (bash) and ``_ollad`` (zsh), as ``make
build`` does; nothing else needs shtab.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import shtab

from ollad.cli import EX_OK, make_parser

__all__ = ["completion", "main"]

_FILES: Final = {"bash": "ollad", "zsh": "_ollad"}
"""What each shell looks for."""

_PATHS: Final = frozenset({"PATH", "SOCKET"})
"""Metavariables that stand for a file."""


def completion(shell: str) -> str:
    """The script for ``shell``, ``bash`` or ``zsh``."""
    parser = make_parser()
    _complete_paths(parser)
    return shtab.complete(parser, shell)


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:  # noqa: SLF001 - argparse tells them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - has no public name
            for below in action.choices.values():
                _complete_paths(below)
        elif action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks


def main(folder: Path) -> int:
    """Write the scripts into ``folder``."""
    # the defaults shown are the service's, not those of whoever builds it
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        os.environ.pop(name, None)
    folder.mkdir(parents=True, exist_ok=True)
    for shell, name in _FILES.items():
        (folder / name).write_text(completion(shell))
    return EX_OK


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
