"""HTTP by hand, for what no client library would send."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Wire", "connected", "exchange", "request", "until"]

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(line: str, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    """A request as it goes over the wire; it asks for the connection to be closed after it."""
    lines = [f"{line} HTTP/1.1", "Host: ollad.example", "Connection: close", *headers]
    if length and body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    """A connection to ollad."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # a reset that the test has seen already
            await writer.wait_closed()


async def exchange(port: int, data: bytes) -> bytes:
    """Send ``data`` and read until the other end closes."""
    async with connected(port) as (reader, writer):
        writer.write(data)
        return await reader.read()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - the conditions are states that nobody announces
        await asyncio.sleep(0.005)
