"""A client that sees every byte, and waiting for what must come true soon."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.wire.conftest import PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["ByteClient", "connect", "post_bytes", "until"]


@dataclass(frozen=True, slots=True)
class ByteClient:
    """A connection to ollad."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """The head of the next reply."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def reply(self) -> tuple[bytes, bytes]:
        """A reply's head, and all that follows up to the connection's end."""
        return await self.head(), await self.reader.read()

    def leave(self) -> None:
        """Go away."""
        self.writer.transport.abort()


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[ByteClient]:
    """Connect to ollad for the length of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield ByteClient(reader, writer)
    finally:
        writer.transport.abort()


def post_bytes(path: str, body: Any, *, version: str = "1.1", headers: str = "") -> bytes:
    """A POST of JSON below the prefix, as bytes; ``headers`` are whole lines."""
    data = json.dumps(body).encode()
    head = (
        f"POST {PREFIX}{path} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n{headers}\r\n"
    )
    return head.encode() + data


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must become true; the test's timeout is the limit."""
    while not condition():  # noqa: ASYNC110 - the condition belongs to somebody else
        await asyncio.sleep(0.002)
