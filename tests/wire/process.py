"""``ollad`` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["Process", "configuration", "launched", "serve"]


@dataclass(frozen=True, slots=True)
class Process:
    """A running ``ollad serve``.

    Attributes:
        process: the process.
        log: where it logs to.
        port: where it listens.
    """

    process: asyncio.subprocess.Process
    log: Path
    port: int

    def entries(self, event: str) -> list[dict[str, Any]]:
        """What it logged under ``event``."""
        whole, _, _unfinished = self.log.read_text().rpartition("\n")
        entries = [json.loads(line) for line in whole.splitlines()]
        return [entry for entry in entries if entry["event"] == event]

    async def logged(self, event: str) -> None:
        """Wait until it has logged ``event``."""
        while not self.entries(event):  # noqa: ASYNC110 - a file announces nothing
            await asyncio.sleep(0.01)


def configuration(folder: Path, *urls: str, **sections: Any) -> Path:
    """A configuration file with these backends."""
    endpoints = [
        {"url": url, "name": f"b{n}", "check_interval": "2s", "check_timeout": "2s"}
        for n, url in enumerate(urls)
    ]
    file = folder / "ollad.yaml"
    document = {"endpoints": endpoints, **sections}
    document.setdefault("server", {"port": 0})
    file.write_text(yaml.safe_dump(document))
    return file


@asynccontextmanager
async def launched(config: Path, *arguments: str) -> AsyncIterator[Process]:
    """Run the daemon until the end of the block, or its own, whichever is first.

    It need not listen yet: ``port`` is 0.
    """
    log = config.with_suffix(".log")
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ollad", "serve", "--config", str(config), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield Process(process, log, 0)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def serve(config: Path, *arguments: str) -> AsyncIterator[Process]:
    """Run the daemon, from when it listens to the end of the block or its own."""
    async with launched(config, *arguments) as starting:
        async with asyncio.timeout(30):
            await starting.logged("listening")
        yield replace(starting, port=starting.entries("listening")[0]["port"])
