"""The command line: one module a command, each with ``add_parser`` and ``run``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

from ollad import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "EX_CONFIG",
    "EX_FAILED",
    "EX_INTERRUPTED",
    "EX_OK",
    "EX_UNAVAILABLE",
    "main",
    "make_parser",
]

EX_OK: Final = 0
EX_FAILED: Final = 1
EX_INTERRUPTED: Final = 130
"""Ended by Ctrl-C before there was a daemon that could stop in order; what a shell says of it."""
EX_UNAVAILABLE: Final = 69
"""The daemon cannot be reached (sysexits.h)."""
EX_CONFIG: Final = 78
"""The configuration cannot be used (sysexits.h); the unit does not restart after it."""

_COMMANDS: Final = ("serve", "check", "probe", "top", "simulate", "reload", "backend")


def make_parser(names: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """The command line, of all commands or of some."""
    parser = argparse.ArgumentParser(
        prog="ollad",
        description="A streaming reverse proxy for SGLang inference servers.",
        epilog="Exit codes: 0 fine, 1 failed, 2 usage, 69 no daemon, 78 configuration.",
    )
    parser.add_argument("--version", action="version", version=f"ollad {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        import_module(f"ollad.cli.{name}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # loading the modules of all other commands would take about as long as the rest of a start
    named = [name for name in given[:1] if name in _COMMANDS]
    options = make_parser(named or _COMMANDS).parse_args(given)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return EX_INTERRUPTED
