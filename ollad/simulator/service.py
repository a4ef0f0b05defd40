"""One simulated server: its engine, what it has counted, and in which part of its life it is."""

from __future__ import annotations

import asyncio
import random
import time
from enum import Enum
from typing import TYPE_CHECKING, Final

from ollad.simulator.driver import Driver
from ollad.simulator.engine import Engine
from ollad.simulator.faults import Faults
from ollad.simulator.requestlog import RequestLog
from ollad.simulator.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.simulator.engine import Task
    from ollad.simulator.options import Options

__all__ = ["VERSION", "Life", "Service"]

VERSION: Final = "0.5.23"
"""The SGLang that is simulated."""

_IDLE_POLL: Final = 0.05


class Life(Enum):
    """What part of its life a server is in."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Service:
    """What the routes share.

    Attributes:
        options: how it was started.
        engine: the model.
        driver: lets the engine live; one of the running loop.
        statistics: running totals.
        faults: chooses requests that fail.
        log: of requests.
        flying: requests under way, by rid.
        life: see ``Life``.
        address: where it listens, ``host:port``; empty before.
        handling: generation requests whose handlers run.
        started: Unix time.

    Raises:
        OSError: the request log cannot be opened.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.engine = Engine(options.engine)
        self.statistics = Statistics()
        self.faults = Faults(options.fail_rate, options.fail_mode, options.seed)
        self.log = RequestLog(options.log_requests)
        self._loop = asyncio.get_running_loop()
        self.driver = Driver(self.engine, options.time_scale, self._loop)
        self.flying: dict[str, Task] = {}
        self.life = Life.READY
        self.address = ""
        self.handling = 0
        self.started = time.time()
        self._random = random.Random(options.seed)  # noqa: S311 - ids need not be unguessable
        self._later: set[asyncio.TimerHandle] = set()
        if options.startup_seconds > 0:
            self.life = Life.STARTING
            self.later(options.startup_seconds, self._ready)

    @property
    def longest(self) -> int:
        """Tokens that prompt and answer of a request can have together."""
        return min(self.options.context_length, self.engine.longest)

    def new_rid(self) -> str:
        """A fresh request id, 32 hex digits."""
        return f"{self._random.getrandbits(128):032x}"

    def wall(self, moment: float) -> float:
        """The Unix time of an engine moment."""
        return self.started + moment

    async def sleep(self, seconds: float) -> None:
        """Let engine seconds pass."""
        await asyncio.sleep(seconds / self.options.time_scale)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in some engine seconds, unless the server is closed by then."""

        def run() -> None:
            self._later.discard(handle)
            call()

        handle = self._loop.call_later(seconds / self.options.time_scale, run)
        self._later.add(handle)

    def abort(self, prefix: str) -> None:
        """End all requests whose rid begins so (SGLang ``Scheduler.abort_request``)."""
        for rid, task in tuple(self.flying.items()):
            if rid.startswith(prefix) and not task.over:
                self.statistics.aborted += 1
                self.driver.abort(task)

    def drain(self) -> None:
        """Be unhealthy from now on; requests are still served."""
        self.life = Life.DRAINING

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        while self.handling or self.flying:  # noqa: ASYNC110 - a real server polls as well
            await asyncio.sleep(_IDLE_POLL)

    def close(self) -> None:
        """Stop all timers and close the log."""
        for handle in self._later:
            handle.cancel()
        self._later.clear()
        self.driver.close()
        self.log.close()

    def _ready(self) -> None:
        if self.life is Life.STARTING:
            self.life = Life.READY
