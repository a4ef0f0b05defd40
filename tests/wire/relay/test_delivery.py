"""What the kernel says of bytes on their way."""

from __future__ import annotations

import asyncio
from typing import cast

from ollad.relay.delivery import acknowledged


async def test_what_the_other_end_has_taken_is_acknowledged() -> None:
    taken = asyncio.Event()
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        writer.write(b"ok")
        taken.set()
        await go.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        transport = cast("asyncio.Transport", writer.transport)
        assert acknowledged(transport) == 0
        writer.write(b"x" * 100)
        await taken.wait()
        await reader.readexactly(2)
        assert acknowledged(transport) == 100
        go.set()
        writer.close()
