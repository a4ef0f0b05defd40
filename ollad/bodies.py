"""Long request bodies, received right where they will stay.

aiohttp hands over a body in pieces, each of which is copied twice before all are joined. Of a long
body whose length is known the kernel can write every byte to its final place instead: the
connection lends its transport to a receiver until the body has come, and its parser, which has
seen nothing of that, goes on with the next request.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.web_protocol import RequestPayloadError

from ollad.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader

__all__ = ["LONG", "LendingHandler", "receive_body"]

LONG: Final = 512 * 1024
"""Bytes from which a body is worth the trouble."""

_AHEAD: Final = 32
"""How many times as much memory is taken as has been filled."""
_LEAST: Final = 64 * 1024
"""Bytes of memory that are taken at first; also of what is read at once of a body nobody wants."""


class LendingHandler(web.RequestHandler):
    """aiohttp's handler of a connection, whose transport can be lent.

    Args:
        server: aiohttp's.
        connection: what the transport talks to.
        options: for ``web.RequestHandler``.
    """

    __slots__ = ("connection",)

    def __init__(self, server: web.Server, connection: asyncio.Protocol, **options: Any) -> None:
        super().__init__(server, **options)
        self.connection = connection

    def renew_parser(self) -> None:
        """Parse what comes next as the beginning of a request, whatever has come before."""
        if self._parser is not None:
            self._parser = HttpRequestParser(
                self,
                self._loop,
                self._read_bufsize,
                max_line_size=self.max_line_size,
                max_field_size=self.max_field_size,
                max_headers=self.max_headers,
                payload_exception=RequestPayloadError,
                auto_decompress=False,
                max_msg_queue_size=self._max_msg_queue_size,
            )


async def receive_body(
    request: web.Request, length: int, hold: Callable[[int], None]
) -> bytes | None:
    """Receive what is still to come of a body that has not arrived whole.

    Memory is taken as the body grows, never for a claim alone. If the body is given up on, what
    is still to come of it is read and forgotten, so that the connection stays in step.

    Args:
        request: the request; nothing of its body has been read.
        length: of the body, bytes.
        hold: told how many bytes of memory will be taken for the body in all, each time before
            they are; it may refuse by raising a ``GatewayError``.

    Returns:
        The body; None if it cannot be received in this way, and is to be read as usual.

    Raises:
        GatewayError: ``hold`` has refused.
    """
    handler, transport = request.protocol, request.transport
    if (
        not isinstance(handler, LendingHandler)
        or transport is None
        or request.content.is_eof()
        or "Upgrade" in request.headers  # the parser has to see its end
    ):
        return None
    first = request.content.read_nowait()
    if request.content.is_eof():
        hold(len(first))  # the parser had paused with all of it, and has gone on
        return first
    receiver = _Receiver(handler, transport, request.content, first, length, hold)
    try:
        return await receiver.body()
    finally:
        receiver.forget()


class _Receiver(asyncio.BufferedProtocol):
    """What a transport talks to until a body has come."""

    __slots__ = (
        "_arrived",
        "_buffer",
        "_connection",
        "_content",
        "_filled",
        "_handler",
        "_hold",
        "_length",
        "_missing",
        "_transport",
        "_view",
    )

    def __init__(
        self,
        handler: LendingHandler,
        transport: asyncio.Transport,
        content: StreamReader,
        first: bytes,
        length: int,
        hold: Callable[[int], None],
    ) -> None:
        self._handler = handler
        self._connection = handler.connection
        self._transport = transport
        self._content = content
        self._length = length
        self._missing = length - len(first)
        self._hold = hold
        self._arrived: asyncio.Future[GatewayError | None] = (
            asyncio.get_running_loop().create_future()
        )
        # of all buffers it alone can turn into bytes without a copy
        self._buffer = io.BytesIO()
        self._buffer.write(first)
        self._filled = len(first)
        self._view = self._buffer.getbuffer()
        hold(len(first))
        transport.set_protocol(self)

    async def body(self) -> bytes:
        """Wait for the body."""
        refusal = await self._arrived
        if refusal is not None:
            raise refusal
        self._view.release()
        return self._buffer.getvalue()

    def forget(self) -> None:
        """Keep nothing of the body, whether it has come or not."""
        self._arrived.cancel()
        self._view = memoryview(b"")
        self._buffer = io.BytesIO()

    # --- asyncio.BufferedProtocol --------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is as long as it is
        """Where to read into."""
        if self._filled == len(self._view) and not self._arrived.done():
            self._grow()
        if self._arrived.done():
            return memoryview(bytearray(min(_LEAST, self._missing)))
        return self._view[self._filled :]

    def _grow(self) -> None:
        """Take more memory, unless that is refused."""
        size = min(self._length, max(_LEAST, _AHEAD * self._filled))
        try:
            self._hold(size)
        except GatewayError as error:
            self._arrived.set_result(error)
            return
        self._view.release()
        self._buffer.seek(size - 1)
        self._buffer.write(b"\0")
        self._view = self._buffer.getbuffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Give the transport back after the last byte."""
        self._filled += nbytes
        self._missing -= nbytes
        if not self._missing:
            self._handler.renew_parser()
            self._transport.set_protocol(self._connection)
            self._content.feed_eof()
            if not self._arrived.done():
                self._arrived.set_result(None)

    def eof_received(self) -> None:
        """The client sends no more; as on any of its connections, that ends it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; whoever serves it is told by the connection."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The client takes it again."""
        self._connection.resume_writing()
