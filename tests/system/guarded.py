"""Programs that start others: none of it is left at the end, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_guarded"]

STOP_SECONDS = 20


def run_guarded(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a command in a session of its own.

    Args:
        command: the program and its arguments.
        seconds: how long it may take.

    Returns:
        Its exit code, and all that it said.

    Raises:
        AssertionError: it took too long; the message has what it said until then.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{command[0]} takes too long:\n{_end(process)}") from None
    except BaseException:
        _end(process)
        raise
    return process.returncode, output


def _end(process: subprocess.Popen[str]) -> str:
    """Stop all of the session, kindly first, and return what was said."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.communicate(timeout=STOP_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
