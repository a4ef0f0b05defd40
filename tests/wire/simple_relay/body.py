"""Bodies that end badly, where aiohttp's reader needs help."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

__all__ = ["buffered", "failing_when_lost"]


def buffered(content: aiohttp.StreamReader) -> bytes:
    """What arrived before the body broke off and was not read yet; ``b""`` once it was."""
    return content._read_nowait(-1)  # noqa: SLF001 - the public ways raise the body's error first


@contextmanager
def failing_when_lost(upstream: aiohttp.ClientResponse) -> Iterator[None]:
    """Let reading fail once the connection is lost before the end of the body.

    After a malformed chunk aiohttp (3.14) closes the connection without telling the reader, which
    would wait for ever.
    """
    content, connection = upstream.content, upstream.connection
    if connection is None or connection.protocol is None:
        yield  # the body is here already
        return

    def on_lost(_: asyncio.Future[None] | None) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("The body's framing is broken."))

    closed = connection.protocol.closed
    if closed is None:
        on_lost(None)
        yield
        return
    # The future lives as long as the connection, and somebody has to take its exception.
    closed.remove_done_callback(_take_exception)
    closed.add_done_callback(_take_exception)
    closed.add_done_callback(on_lost)
    try:
        yield
    finally:
        closed.remove_done_callback(on_lost)


def _take_exception(closed: asyncio.Future[None]) -> None:
    if not closed.cancelled():
        closed.exception()
