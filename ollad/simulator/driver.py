"""Lets an engine live in real time: one timer for all its requests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ollad.simulator.engine import Engine, Task

__all__ = ["Driver"]

_RESOLUTION: Final = 0.001
"""What uvloop's timers can tell apart, seconds."""


class Driver:
    """Calls the engine when something is due, and whoever waits for that.

    Args:
        engine: what is driven.
        time_scale: engine seconds that pass in a real one.
        loop: where the timer runs.
    """

    def __init__(self, engine: Engine, time_scale: float, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._scale = time_scale
        self._loop = loop
        self._origin = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: dict[Task, tuple[asyncio.Event, bool]] = {}
        self._stepping: dict[Task, asyncio.Event] = {}

    def now(self) -> float:
        """Engine seconds since the driver was made."""
        return (self._loop.time() - self._origin) * self._scale

    def submit(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        event: asyncio.Event,
        *,
        every_token: bool,
    ) -> Task:
        """Hand a request to the engine.

        Args:
            prompt: its tokens.
            output: what will be generated.
            event: set when it has ended, and when there is a token if ``every_token``.
            every_token: see above.

        Raises:
            QueueFullError: see ``Engine.submit``.
            ValueError: likewise.
        """
        task = self.engine.submit(prompt, output, self.advance())
        self._watchers[task] = (event, every_token)
        self._schedule()
        return task

    def abort(self, task: Task) -> None:
        """End a request."""
        now = self.advance()
        if not task.over:
            self.engine.abort(task, now)
            self._changed(task)
            self._schedule()

    def forget(self, task: Task) -> None:
        """Stop telling about a request."""
        self._watchers.pop(task, None)
        self._stepping.pop(task, None)

    def advance(self) -> float:
        """Bring the engine up to now, and say when that is."""
        now = self.now()
        for task in self.engine.advance(now):
            self._changed(task)
        return now

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _changed(self, task: Task) -> None:
        watcher = self._watchers.get(task)
        if watcher is None:
            return
        event, every_token = watcher
        if task.over:
            self.forget(task)
            event.set()
        elif every_token:
            self._stepping[task] = event
            event.set()

    def _tick(self) -> None:
        self.advance()
        for event in self._stepping.values():
            event.set()
        self._schedule()

    def _schedule(self) -> None:
        """Set the timer for what comes next."""
        self.close()
        now = self.now()
        moments = [self.engine.next_event(), self.engine.next_step(now) if self._stepping else None]
        due = min((moment for moment in moments if moment is not None), default=None)
        if due is not None:
            # Rounded up: woken too early, everybody would look in vain.
            delay = max(1, math.ceil((due - now) / self._scale / _RESOLUTION)) * _RESOLUTION
            self._timer = self._loop.call_later(delay, self._tick)
