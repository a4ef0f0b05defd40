"""Looking again at once, for a request that names a model nobody is known to serve."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["SharedRefresh"]

FRESH_SECONDS: Final = 1.0
"""How long what was found is taken for what there is."""


class SharedRefresh:
    """One look for everyone who asks at the same time, and one a second at most.

    So names that clients make up cost the backends no more than one request each per second.

    Args:
        look: looks; it must come to an end by itself and raise nothing.
        clock: monotonic seconds.
    """

    def __init__(
        self, look: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._looking: asyncio.Task[None] | None = None
        self._fresh_until = float("-inf")

    async def __call__(self) -> None:
        """Return once somebody has looked, now or less than a second ago.

        Whoever is cancelled while waiting leaves the look to the others.
        """
        if self._looking is None:
            if self._clock() < self._fresh_until:
                return
            self._looking = asyncio.create_task(self._run(), name="refresh")
        await asyncio.wait((self._looking,))

    async def _run(self) -> None:
        try:
            await self._look()
        finally:
            self._looking = None
            self._fresh_until = self._clock() + FRESH_SECONDS

    async def close(self) -> None:
        """End the look that may be under way."""
        looking = self._looking
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
