"""The requests under way, for a daemon that ends."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Cancellable", "Traffic"]


class Cancellable(Protocol):
    """What serves a request; a task, mostly."""

    def cancel(self) -> object:
        """Serve it no longer."""


class Traffic:
    """Knows the requests under way, so that a daemon that drains can wait for them or cut them.

    Attributes:
        under_way: what serves them.
        cut_off: whether those under way were told to end.
    """

    __slots__ = ("_idle", "cut_off", "under_way")

    def __init__(self) -> None:
        self.under_way: set[Cancellable] = set()
        self.cut_off = False
        self._idle: asyncio.Event | None = None

    def __len__(self) -> int:
        """How many requests are under way."""
        return len(self.under_way)

    def enter(self, server: Cancellable) -> None:
        """``server`` has begun to serve a request; ``leave`` must follow."""
        self.under_way.add(server)

    def leave(self, server: Cancellable) -> None:
        """The answer of ``server`` has ended."""
        self.under_way.discard(server)
        if self._idle is not None and not self.under_way:
            self._idle.set()

    async def idle(self) -> None:
        """Return once no request is under way."""
        while self.under_way:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def cut(self) -> None:
        """Cancel what is under way."""
        self.cut_off = True
        for server in tuple(self.under_way):
            server.cancel()
