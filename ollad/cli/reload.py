"""``ollad reload``: have the running daemon take on its configuration anew."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ollad.cli import EX_CONFIG, EX_OK
from ollad.cli.orders import FAILURES, add_control_option, complain, give_order, signed

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "reload",
        help="have the running daemon read its configuration anew",
        description="Have the running daemon validate its configuration file and take it on, and "
        "print its verdict. A file with a problem changes nothing.",
    )
    parser.add_argument(
        "--config", metavar="PATH", help="take this file on instead of the one it was started with"
    )
    add_control_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask for the reload and tell its verdict."""
    config = None if options.config is None else str(Path(options.config).absolute())
    control = options.control
    try:
        verdict = asyncio.run(give_order(control, "reload", {"config": config}))
    except FAILURES as error:
        return complain("reload", error, control)
    lines = "".join(f"{message}\n" for message in verdict["messages"])
    file, daemon = verdict["config"], signed(verdict, control)
    if verdict["accepted"] is True:
        sys.stdout.write(f"{file}: taken on by {daemon}\n{lines}")
        return EX_OK
    sys.stderr.write(
        f"{lines}ollad reload: {file}: refused by {daemon}; "
        "it goes on with the configuration that it has\n"
    )
    return EX_CONFIG
