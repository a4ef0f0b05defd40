"""One timer for the silence of all exchanges.

A timer for each would have to be made and cancelled with every request, and moved with every event.
Here an exchange says when it wants to be looked at next, and only the earliest of these times has a
timer, which mostly finds that there have been bytes since.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NEVER", "Watch", "Watched"]

NEVER: Final = float("inf")


class Watched(Protocol):
    """What can be silent for too long."""

    def look(self, now: float) -> float:
        """See whether it has been, and act on it.

        Returns:
            The monotonic time at which to look again; ``NEVER``: not any more.
        """


class Watch:
    """Looks after exchanges.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_due", "_timer", "_watched")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: set[Watched] = set()
        self._due = NEVER
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, watched: Watched, due: float) -> None:
        """Look at ``watched`` at monotonic time ``due``, or a little later; never at ``NEVER``."""
        if due < NEVER:
            self._watched.add(watched)
        if due < self._due:
            self._schedule(due)

    def discard(self, watched: Watched) -> None:
        """Look at ``watched`` no more."""
        self._watched.discard(watched)

    def close(self) -> None:
        """Look at nothing any more."""
        self._watched.clear()
        self._schedule(NEVER)

    def _schedule(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due < NEVER:
            delay = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._timer, self._due = None, NEVER
        now = self._clock()
        due = NEVER
        for watched in tuple(self._watched):
            if watched in self._watched:  # none of those before has discarded it
                again = watched.look(now)
                if again == NEVER:
                    self._watched.discard(watched)
                due = min(due, again)
        if due < self._due:  # some may have been added meanwhile
            self._schedule(due)
