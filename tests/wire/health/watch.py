"""A health monitor over scripted servers, and a way to wait for what it sees."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.config.schema import Endpoint, Health
from ollad.health.fetch import open_client
from ollad.health.schedule import HealthMonitor
from ollad.tls import BackendTls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ollad.backends.snapshot import Snapshot, State


class Log:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.probes: list[tuple[str, str]] = []
        self.transitions: list[tuple[str, State, State]] = []
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Wait for the end of the next round of any backend."""
        self._news.clear()
        await self._news.wait()

    def on_probe(self, backend: Backend, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.probes.append((backend.name, result))
        self._news.set()

    def on_transition(self, backend: Backend, old: State, new: State, reason: str) -> None:
        assert reason
        assert backend.snapshot.state is new
        self.transitions.append((backend.name, old, new))

    def results(self, name: str = "one") -> list[str]:
        return [result for backend, result in self.probes if backend == name]


class Watch:
    """A running monitor.

    Attributes:
        log: what the observer was told.
    """

    def __init__(self, pool: Pool, monitor: HealthMonitor, log: Log) -> None:
        self.pool = pool
        self.monitor = monitor
        self.log = log

    def backend(self, name: str = "one") -> Backend:
        backend = self.pool.get(name)
        assert backend is not None
        return backend

    def snapshot(self, name: str = "one") -> Snapshot:
        return self.backend(name).snapshot

    async def until(self, true: Callable[[Snapshot], bool], name: str = "one") -> Snapshot:
        """Wait for a snapshot of which ``true`` holds."""
        while not true(self.snapshot(name)):
            await self.log.news()
        return self.snapshot(name)

    async def rounds(self, more: int, name: str = "one") -> None:
        """Wait for so many rounds to end."""
        want = len(self.log.results(name)) + more
        while len(self.log.results(name)) < want:
            await self.log.news()


def endpoint(url: str, name: str = "one", **changes: Any) -> Endpoint:
    """An endpoint probed often."""
    return Endpoint(url=url, name=name, **{"check_interval": 0.05, "check_timeout": 0.5, **changes})


@asynccontextmanager
async def watching(*endpoints: Endpoint, **health: Any) -> AsyncIterator[Watch]:
    """Run a monitor; its first round may not be over yet."""
    log = Log()
    async with open_client(BackendTls({})) as client:
        pool = Pool(Backend(each) for each in endpoints)
        thresholds = Health(**{"ramp": 0.1, **health})
        monitor = HealthMonitor(pool, thresholds, client, observer=log)
        monitor.start()
        try:
            yield Watch(pool, monitor, log)
        finally:
            await monitor.stop()
