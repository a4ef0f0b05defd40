"""How commands give orders to the running daemon, over its control socket."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from ollad.cli import EX_FAILED, EX_UNAVAILABLE
from ollad.control import control_path

if TYPE_CHECKING:
    import argparse

__all__ = ["FAILURES", "PATIENCE_SECONDS", "add_control_option", "complain", "give_order", "signed"]

FAILURES: Final = (aiohttp.ClientError, OSError)
"""What giving an order may raise."""

PATIENCE_SECONDS: Final = 50.0
"""Less than the time the service manager gives a reload, so that it is told why."""


def add_control_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--control``, the path of the daemon's socket."""
    parser.add_argument(
        "--control",
        metavar="SOCKET",
        default=str(control_path(os.environ)),
        help="the daemon's control socket; default: %(default)s",
    )


async def give_order(control: str, command: str, order: dict[str, Any]) -> dict[str, Any]:
    """Have the daemon carry out ``command`` and return its verdict.

    Raises:
        Exception: one of ``FAILURES``.
    """
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
    connector = aiohttp.UnixConnector(control)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post(f"http://ollad/{command}", json=order) as response,
    ):
        response.raise_for_status()
        verdict: dict[str, Any] = await response.json()
        return verdict


def signed(verdict: dict[str, Any], control: str) -> str:
    """Which daemon gave the verdict."""
    return f"ollad {verdict['version']}, process {verdict['pid']}, at {control}"


def complain(command: str, error: Exception, control: str) -> int:
    """Say on standard error why there is no verdict; the exit code."""
    code, line = _explain(error, control)
    sys.stderr.write(f"ollad {command}: {line}\n")
    return code


def _explain(error: Exception, control: str) -> tuple[int, str]:
    match error:
        case aiohttp.ClientResponseError(status=404):
            return EX_FAILED, (
                f"the daemon at {control} is of another version and does not know this command; "
                "restart it."
            )
        case aiohttp.ClientResponseError():
            return EX_FAILED, f"the daemon at {control} made a mistake; its log has the details."
        case TimeoutError():
            return EX_FAILED, (
                f"the daemon at {control} gave no verdict in {PATIENCE_SECONDS:g} s; "
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
