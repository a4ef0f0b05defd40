"""The daemon under test: a process, its configuration, its signals, what it holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.chaos.processes import end, spawn
from tests.chaos.records import Trouble, Window

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping

    from tests.chaos.settings import Settings

__all__ = ["Census", "Daemon"]

_START_SECONDS: Final = 30.0
_VERDICT_SECONDS: Final = 15.0
_STOP_SECONDS: Final = 40.0
_EXPECTED_ERRORS: Final = frozenset({"reload refused"})

_BAD_FILES: Final = (
    "endpoints: [}\n",
    "endpoints: []\n",
    "endpoints:\n  - {url: 'http://127.0.0.1:1', name: one, wieght: 3}\n",
    "",
    "endpoints:\n  - {url: 'http://127.0.0.1:1', name: one}\nproxy: {connect_timeout: 5}\n",
    "\x00\xff",
)


@dataclass(frozen=True, slots=True)
class Census:
    """What the process holds.

    Attributes:
        tasks: of asyncio.
        descriptors: open files and sockets.
        blocks: of Python's memory.
        resident: bytes of memory.
        names: of the tasks, and how many have them.
    """

    tasks: int
    descriptors: int
    blocks: int
    resident: int
    names: Mapping[str, int]


class Daemon:
    """One daemon.

    Attributes:
        port: where it listens, once ``start`` has returned.
        windows: when a backend was not in its configuration.
        accepted: good files it was given.
        refused: bad ones.
        problems: what it did about a reload that it should not have done.
    """

    def __init__(self, urls: Mapping[str, str], settings: Settings) -> None:
        self.port = 0
        self.windows: list[Window] = []
        self.accepted = 0
        self.refused = 0
        self.problems: list[str] = []
        self._urls = urls
        self._settings = settings
        self._file = settings.folder / "ollad.yaml"
        self._census = settings.folder / "census.json"
        self._log = settings.folder / "ollad.log"
        self._process: Process | None = None
        self._removed: set[str] = set()
        self._variant = 0
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            RuntimeError: it does not.
        """
        self._write_good()
        run = self._settings.folder / "run"
        run.mkdir(exist_ok=True)
        with self._log.open("wb") as log:
            self._process = await spawn(
                *(sys.executable, "-m", "tests.chaos.watched", str(self._census)),
                *("serve", "--config", str(self._file)),
                stdout=log,
                stderr=log,
                env={**os.environ, "RUNTIME_DIRECTORY": str(run)},
            )
        async with asyncio.timeout(_START_SECONDS):
            while not (found := self.entries("listening")):
                if self._process.returncode is not None:
                    raise RuntimeError(f"ollad does not start: {self._log.read_text()}")
                await asyncio.sleep(0.05)
        self.port = found[0]["port"]

    def entries(self, *events: str) -> list[dict[str, Any]]:
        """What it logged under these names, or all of it; what is no JSON under ``not JSON``."""
        whole, _, _unfinished = self._log.read_text(errors="replace").rpartition("\n")
        entries = map(_parsed, whole.splitlines())
        return [entry for entry in entries if not events or entry["event"] in events]

    def errors(self) -> list[dict[str, Any]]:
        """What it logged as an error, or what was no log line at all."""
        return [
            entry
            for entry in self.entries()
            if entry.get("level") in {"error", "critical"}
            and entry["event"] not in _EXPECTED_ERRORS
        ]

    async def stop(self) -> int | None:
        """Send SIGTERM; its exit code, or None if it had to be killed."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            return None
        finally:
            await self.close()

    async def close(self) -> None:
        """Kill it if it still runs."""
        if self._process is not None:
            await end(self._process)

    async def census(self) -> Census:
        """Count what it holds."""
        assert self._process is not None
        self._census.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(_VERDICT_SECONDS):
            while not self._census.exists():  # noqa: ASYNC110 - a file announces nothing
                await asyncio.sleep(0.02)
        return Census(**json.loads(self._census.read_text()))

    async def without(self, name: str, seconds: float) -> None:
        """Take a backend out of the configuration for some time."""
        begin = time.time()
        try:
            async with self._turn:
                self._removed.add(name)
                await self._reload_good()
            await asyncio.sleep(seconds)
        finally:
            async with self._turn:
                self._removed.discard(name)
                await self._reload_good()
            self.windows.append(Window(name, Trouble.REMOVE, begin, time.time()))

    async def reload(self, variant: int, *, good: bool) -> None:
        """Send SIGHUP with a good file, or with a bad one that is then replaced by a good one."""
        async with self._turn:
            if good:
                self._variant = variant
                await self._reload_good()
                return
            self._file.write_text(_BAD_FILES[variant % len(_BAD_FILES)])
            self.refused += 1
            await self._hang_up("reload refused")
            self._write_good()

    async def _reload_good(self) -> None:
        self._write_good()
        self.accepted += 1
        await self._hang_up("reloaded")

    async def _hang_up(self, verdict: str) -> None:
        assert self._process is not None
        before = len(self.entries("reloaded", "reload refused"))
        self._process.send_signal(signal.SIGHUP)
        try:
            async with asyncio.timeout(_VERDICT_SECONDS):
                while len(found := self.entries("reloaded", "reload refused")) == before:  # noqa: ASYNC110 - a file announces nothing
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.problems.append(f"no verdict {_VERDICT_SECONDS:g} s after a SIGHUP")
            return
        if found[-1]["event"] != verdict:
            self.problems.append(f"said {found[-1]} where {verdict!r} was right")

    def _write_good(self) -> None:
        settings, variant = self._settings, self._variant
        interval = f"{settings.interval * 1000:.0f}ms"
        endpoints = [
            {
                "url": url,
                "name": name,
                "check_interval": interval,
                "check_timeout": interval,
                # a backend that has changed is another one, and the old one's streams go on
                "priority": 100 - 20 * (variant % 3 == 2 and name == "b1"),
            }
            for name, url in self._urls.items()
            if name not in self._removed
        ]
        document = {
            "endpoints": endpoints,
            "server": {"port": 0},
            "proxy": {
                "connect_timeout": "1s",
                "first_byte_timeout": f"{settings.first_byte_timeout:.0f}s",
                "idle_timeout": f"{settings.idle_timeout:.0f}s",
                # As many as there are backends: three of them may be in trouble at once.
                "attempts": len(self._urls),
            },
            "health": {"ramp": "2s" if settings.short else "5s", "deep_interval": "10s"},
            "batch": {"concurrency": 8 + variant % 2},
            "logging": {"access": False, "format": "json"},
        }
        part = self._file.with_suffix(".part")
        part.write_text(yaml.safe_dump(document))
        part.rename(self._file)


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if isinstance(entry, dict) and "event" in entry:
        return entry
    return {"event": "not JSON", "level": "error", "line": line}
