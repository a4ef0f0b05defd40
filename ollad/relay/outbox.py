"""What is written in one turn of the event loop, written together at its end.

A write wakes the process at the other end. Where that has gone to sleep again before the next one,
each write pays for it, which can cost more than the writing itself; writes that follow each other
at once wake it only once. Of requests, whole replies and events of streams a busy proxy has many in
a turn; one that is not busy has one, and writes it as soon.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Outbox"]


class Outbox:
    """Writes that wait for the end of the present turn of the event loop.

    Whoever closes a transport, or writes to it otherwise, loses or overtakes what waits for it.
    """

    __slots__ = ("_await_end", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._await_end: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write ``data`` to ``transport`` before the event loop looks for anything new.

        It is lost if that has been closed by then.
        """
        if not self._waiting:
            if self._await_end is None:
                self._await_end = partial(asyncio.get_running_loop().call_soon, self.flush)
            self._await_end()
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Write what waits, now."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            try:
                transport.write(data)
            except Exception as error:  # noqa: BLE001 - the others have to be written all the same
                if transport.is_closing():
                    continue  # which is not asked before, for nearly none is
                structlog.get_logger().error("a connection cannot be written to", exc_info=error)
                transport.abort()
