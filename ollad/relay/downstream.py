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
    from collections.abc import Iterable, Sequence

__all__ = ["DownstreamReply", "WholeReply"]

_BODILESS: Final = frozenset({204, 304})
"""Statuses whose replies have no body and no framing of one (RFC 9112 §6.3)."""

_SIZED: Final = 0
_CHUNKED: Final = 1
_UNTIL_CLOSE: Final = 2


class DownstreamReply(web.StreamResponse):
    """A response that the relay writes itself.

    The body is framed for the client whatever framing it came with: by its length where that is
    known, else in chunks, a chunk for each segment that arrived, or, to HTTP/1.0 clients, by the
    end of the connection.

    Attributes:
        trailing: whether trailers have been announced.

    Args:
        request: what is answered.
        status: status code.
        reason: reason phrase.
        headers: end-to-end headers but Content-Length.
        length: of the body in bytes, or None if it is not known yet.
        last: end the connection after this response.
        trailers: names of what will be said after the body, if its framing allows.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        status: int,
        reason: str,
        headers: Iterable[tuple[str, str]],
        length: int | None,
        *,
        last: bool = False,
        trailers: Iterable[str] = (),
    ) -> None:
        super().__init__(status=status, reason=reason)
        self._req = request
        self._eof_sent = True  # aiohttp shall neither start nor end it
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        self._transport: asyncio.Transport = transport
        self._silent = request.method == "HEAD"
        persistent = request.keep_alive and not last
        if status in _BODILESS:
            self._framing = _SIZED
            framing = ""
        elif length is not None:
            self._framing = _SIZED
            framing = f"Content-Length: {length}\r\n"
        elif request.version >= HttpVersion11:
            self._framing = _CHUNKED
            framing = "Transfer-Encoding: chunked\r\n"
        else:
            self._framing = _UNTIL_CLOSE
            framing = ""
            persistent = False
        names = ", ".join(trailers) if self._framing == _CHUNKED and not self._silent else ""
        self.trailing = bool(names)
        if names:
            framing += f"Trailer: {names}\r\n"
        self._keep_alive = persistent
        connection = "" if persistent else "Connection: close\r\n"
        if persistent and request.version < HttpVersion11:
            connection = "Connection: keep-alive\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        version = f"HTTP/{request.version.major}.{request.version.minor}"
        self._head: bytes = (
            f"{version} {status} {reason}\r\n{lines}{framing}{connection}\r\n".encode("latin-1")
        )

    @property
    def until_close(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._framing == _UNTIL_CLOSE

    @property
    def congested(self) -> bool:
        """Whether the client takes bytes more slowly than they come."""
        protocol = self._req.protocol if self._req is not None else None
        return protocol is not None and protocol.writing_paused

    async def relieved(self) -> None:
        """Wait until the client has taken what was written.

        Raises:
            ConnectionError: it has gone.
        """
        if self._req is not None and self._req.protocol is not None:
            await self._req.protocol._drain_helper()  # noqa: SLF001 - as aiohttp's writer does

    def start(self, first: bytes) -> None:
        """Send the head, and with it the first bytes of the body."""
        request = self._req
        if request is not None:
            request.writer.output_size += len(self._head)
        self._transport.write(self._head + self._framed(first))

    def pass_on(self, data: bytes) -> None:
        """Send more of the body."""
        self._transport.write(self._framed(data))

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the body, with ``trailers`` (RFC 9110 §6.5) if they have been announced."""
        if self._framing == _CHUNKED and not self._silent:
            end = b"0\r\n\r\n"
            if trailers:
                lines = "".join([f"{name}: {value}\r\n" for name, value in trailers])
                end = b"0\r\n%b\r\n" % lines.encode("latin-1")
            self._transport.write(end)

    def _framed(self, data: bytes) -> bytes:
        if not data or self._silent:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._framing == _CHUNKED else data


class WholeReply(web.StreamResponse):
    """A backend's reply that was held, to be sent in one piece by the middleware.

    Attributes:
        head_lines: end-to-end headers but Content-Length, to which more may be added.
        whole: the body.
    """

    def __init__(
        self, status: int, reason: str, head_lines: list[tuple[str, str]], whole: bytes
    ) -> None:
        super().__init__(status=status, reason=reason)
        self.head_lines = head_lines
        self.whole = whole

    def send(self, request: web.BaseRequest, *, last: bool) -> DownstreamReply:
        """Send it; ``last`` ends the connection afterwards.

        Raises:
            ConnectionError: the client has gone.
        """
        reply = DownstreamReply(
            request, self.status, self.reason, self.head_lines, len(self.whole), last=last
        )
        reply.start(self.whole)
        self._eof_sent = True
        self._keep_alive = reply.keep_alive
        return reply
