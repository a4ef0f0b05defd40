"""Programs that run as long as they are needed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.bench.measure import processes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["NotStartedError", "announced", "running"]

_STOP_SECONDS = 5.0


class NotStartedError(Exception):
    """A program did not come to serve; the message says why."""


@contextmanager
def running(command: list[str], log: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, which is ended with all of it.

    Args:
        command: its arguments.
        log: where what it says goes.
        folder: where it runs.
    """
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def announced(process: subprocess.Popen[bytes], log: Path, seconds: float) -> str:
    """The last word of the first line that a program said.

    Raises:
        NotStartedError: it ended, or said nothing in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        first, newline, _ = log.read_text(errors="replace").partition("\n")
        if newline:
            return first.split()[-1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise NotStartedError(f"{process.args!r} ended or said nothing; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    session = process.pid
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while processes_of(session) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.02)
    for pid in processes_of(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
