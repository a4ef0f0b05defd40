"""A reply on its way to the client, written to the connection's transport by hand.

aiohttp serves the connection. What it does for each write of a response (a coroutine, checks, a
drain) is done here by one call of the transport, since a stream consists of little else. That
relies on what aiohttp does not promise: that a response which says it has been sent is left alone,
and that the writer's ``output_size`` tells whether anything was. It is confined to this module, and
``tests/wire/relay/test_promptness.py`` watches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from ollad.relay.exchange import ReplyHead

__all__ = ["DownstreamReply", "WholeReply"]

_BODILESS: Final = frozenset({204, 304})
"""Statuses whose replies have no body and no framing of one (RFC 9112 §6.3)."""

_COPIED: Final = 64 * 1024
"""Longer bodies are written beside their head instead of being copied behind it."""

_SIZED: Final = 0
_CHUNKED: Final = 1
_UNTIL_CLOSE: Final = 2


class DownstreamReply(web.StreamResponse):
    """A response that the relay writes itself.

    The body is framed for the client whatever framing it came with: by its length where that is
    known, else in chunks, those of the backend where a segment held nothing but whole ones and one
    chunk for any other segment, or, to HTTP/1.0 clients, by the end of the connection.

    Attributes:
        trailing: whether trailers have been announced.

    Args:
        request: what is answered.
        status: status code.
        reason: reason phrase.
        lines: header lines, without those of the framing.
        length: of the body in bytes, or None if it is not known yet.
        last: end the connection after this response.
        trailers: names of what will be said after the body, if its framing allows.

    Raises:
        ConnectionResetError: the client has gone.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        status: int,
        reason: bytes,
        lines: bytes,
        length: int | None,
        *,
        last: bool = False,
        trailers: Sequence[str] = (),
    ) -> None:
        super().__init__(status=status)
        self._req = request
        self._eof_sent = True  # aiohttp shall neither start nor end it
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        self._transport: asyncio.Transport = transport
        self._protocol = request.protocol
        self._silent = request.method == "HEAD"
        modern = request.version >= HttpVersion11
        persistent = request.keep_alive and not last
        if status in _BODILESS:
            self._framing = _SIZED
            framing = b""
        elif length is not None:
            self._framing = _SIZED
            framing = b"Content-Length: %d\r\n" % length
        elif modern:
            self._framing = _CHUNKED
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            self._framing = _UNTIL_CLOSE
            framing = b""
            persistent = False
        self.trailing = bool(trailers) and self._framing == _CHUNKED and not self._silent
        if self.trailing:
            framing += b"Trailer: %b\r\n" % ", ".join(trailers).encode()
        self._keep_alive = persistent
        if not persistent:
            framing += b"Connection: close\r\n"
        elif not modern:
            framing += b"Connection: keep-alive\r\n"
        version = b"HTTP/1.1" if modern else b"HTTP/%d.%d" % request.version
        self._head = b"%b %d %b\r\n%b%b\r\n" % (version, status, reason, lines, framing)

    @property
    def until_close(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._framing == _UNTIL_CLOSE

    @property
    def congested(self) -> bool:
        """Whether the client takes bytes more slowly than they come."""
        return self._protocol._paused  # noqa: SLF001 - as aiohttp's writer does

    async def relieved(self) -> None:
        """Wait until the client has taken what was written.

        Raises:
            ConnectionError: it has gone.
        """
        await self._protocol._drain_helper()  # noqa: SLF001 - as aiohttp's writer does

    def start(self, first: bytes) -> None:
        """Send the head, and with it the first bytes of the body."""
        head, self._head = self._head, b""  # a stream lives long
        if self._req is not None:
            self._req.writer.output_size += len(head)
        if not first or self._silent:
            self._transport.write(head)
        elif self._framing == _CHUNKED:
            self._transport.write(b"%b%x\r\n%b\r\n" % (head, len(first), first))
        elif len(first) < _COPIED:
            self._transport.write(head + first)
        else:
            self._transport.writelines((head, first))

    def pass_on(self, data: bytes, chunks: bytes = b"") -> bool:
        """Send more of the body.

        Args:
            data: the bytes.
            chunks: the same in chunks, if they came so.

        Returns:
            Whether the client takes them more slowly than they come.
        """
        if self._framing == _CHUNKED:
            if data and not self._silent:
                self._transport.write(chunks or b"%x\r\n%b\r\n" % (len(data), data))
        elif not self._silent:
            self._transport.write(data)
        return self._protocol._paused  # noqa: SLF001 - once for each event of each stream

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the body, with ``trailers`` (RFC 9110 §6.5) if they have been announced."""
        if self._framing == _CHUNKED and not self._silent:
            end = b"0\r\n\r\n"
            if trailers:
                lines = "".join([f"{name}: {value}\r\n" for name, value in trailers])
                end = b"0\r\n%b\r\n" % lines.encode("latin-1")
            self._transport.write(end)


class WholeReply(web.StreamResponse):
    """A backend's reply that was held, to be sent in one piece once all is known of it.

    Attributes:
        head: of the backend's reply.
        whole: the body.
    """

    def __init__(self, head: ReplyHead, whole: bytes) -> None:
        super().__init__(status=head.status)
        self.head = head
        self.whole = whole

    def send(self, request: web.BaseRequest, lines: bytes, *, last: bool) -> DownstreamReply:
        """Send it.

        Args:
            request: what is answered.
            lines: header lines, without those of the framing.
            last: end the connection afterwards.

        Raises:
            ConnectionError: the client has gone.
        """
        head = self.head
        reply = DownstreamReply(
            request, head.status, head.reason, lines, len(self.whole), last=last
        )
        reply.start(self.whole)
        self._eof_sent = True
        self._keep_alive = reply.keep_alive
        return reply
