"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio.subprocess import Process

__all__ = ["CommandError", "end", "run", "spawn"]


class CommandError(Exception):
    """A command failed; the message has what it said."""


async def spawn(*command: str, **options: Any) -> Process:
    """Start a process that is killed when this one dies, however it dies.

    The process keeps the pid of the command itself.
    """
    setpriv = shutil.which("setpriv")  # of util-linux, which no Linux is without
    guard = (setpriv, "--pdeathsig", "KILL") if setpriv else ()
    options.setdefault("stdin", asyncio.subprocess.DEVNULL)
    return await asyncio.create_subprocess_exec(*guard, *command, **options)


async def run(*command: str) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        CommandError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise CommandError(f"{' '.join(command)}: {output.decode(errors='replace').strip()}")
    return output.decode()


async def end(process: Process) -> None:
    """Kill a process if it runs, and wait until it is gone."""
    if process.returncode is None:
        process.kill()
    await process.wait()
