"""``ollad reload``: have the running daemon take on its configuration anew."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from ollad.cli import EX_CONFIG, EX_FAILED, EX_OK, EX_UNAVAILABLE
from ollad.control import control_path

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser", "run"]

_PATIENCE_SECONDS: Final = 50.0
"""Less than the time the service manager gives a reload, so that it is told why."""


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
    parser.add_argument(
        "--control",
        metavar="SOCKET",
        default=str(control_path(os.environ)),
        help="the daemon's control socket; default: %(default)s",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask for the reload and tell its verdict."""
    config = None if options.config is None else str(Path(options.config).absolute())
    try:
        verdict = asyncio.run(_ask(options.control, config))
    except (aiohttp.ClientError, OSError) as error:
        code, line = _explain(error, options.control)
        sys.stderr.write(f"ollad reload: {line}\n")
        return code
    accepted = verdict["accepted"] is True
    stream = sys.stdout if accepted else sys.stderr
    stream.write("".join(f"{message}\n" for message in verdict["messages"]))
    return EX_OK if accepted else EX_CONFIG


def _explain(error: Exception, control: str) -> tuple[int, str]:
    """The exit code for a failure to get a verdict, and what to say of it."""
    match error:
        case aiohttp.ClientResponseError():
            return EX_FAILED, f"the daemon at {control} made a mistake; its log has the details."
        case TimeoutError():
            return EX_FAILED, (
                f"the daemon at {control} gave no verdict in {_PATIENCE_SECONDS:g} s; "
                "its log tells how far it got."
            )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return EX_FAILED, (
            f"{control} is for the daemon's own user and root alone; run this as one of them."
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return EX_UNAVAILABLE, (
        f"no daemon answers at {control}: {reason}. Start one with "
        "'ollad serve', or say where it listens with --control."
    )


async def _ask(control: str, config: str | None) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
    connector = aiohttp.UnixConnector(control)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post("http://ollad/reload", json={"config": config}) as response,
    ):
        response.raise_for_status()
        verdict: dict[str, Any] = await response.json()
        return verdict
