"""``ollad backend``: keep requests away from one backend of the running daemon, and end that."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any, Final

from ollad.cli import EX_FAILED, EX_OK
from ollad.cli.orders import FAILURES, add_control_option, complain, give_order

__all__ = ["add_parser", "run"]

_LOOK_SECONDS: Final = 0.5
"""How often ``--wait`` asks what is still under way."""

_DESCRIPTIONS: Final = {
    "drain": "Send no new requests to a backend; what is under way there finishes. This holds "
    "across reloads, until 'ollad backend enable' or the end of the daemon.",
    "enable": "Let a backend have requests again.",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "backend",
        help="take a backend out of service by hand, or put it back",
        description="Take a backend of the running daemon out of service by hand, or put it back.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, description in _DESCRIPTIONS.items():
        one = actions.add_parser(
            action, help=description.partition(";")[0].rstrip("."), description=description
        )
        one.add_argument("name", metavar="NAME", help="of the endpoint, as configured")
        if action == "drain":
            one.add_argument(
                "--wait",
                metavar="SECONDS",
                type=_seconds,
                default=0.0,
                help="wait until nothing is under way there, but fail after so long",
            )
        add_control_option(one)
        one.set_defaults(run=run, wait=0.0)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds")
    return seconds


def run(options: argparse.Namespace) -> int:
    """Give the order, tell the verdict, and wait if told to."""
    try:
        verdict = asyncio.run(_order(options))
    except FAILURES as error:
        return complain("backend", error, options.control)
    if verdict["accepted"] is not True:
        said = "; ".join(verdict["messages"])
        sys.stderr.write(f"ollad backend: {said}\n")
        return EX_FAILED
    sys.stdout.write("".join(f"{message}\n" for message in verdict["messages"]))
    if options.wait and verdict["under_way"]:
        sys.stderr.write(
            f"ollad backend: {options.wait:g} s were not enough; {options.name} stays drained\n"
        )
        return EX_FAILED
    return EX_OK


async def _order(options: argparse.Namespace) -> dict[str, Any]:
    """The verdict; the last one if there is something to wait for."""
    deadline = time.monotonic() + options.wait
    while True:
        verdict = await give_order(options.control, options.action, {"name": options.name})
        left = deadline - time.monotonic()
        if left <= 0 or not (verdict["accepted"] and verdict["under_way"]):
            return verdict
        await asyncio.sleep(min(_LOOK_SECONDS, left))
