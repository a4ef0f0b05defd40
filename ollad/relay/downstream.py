"""A reply on its way to the client, written to the connection's transport by hand.

aiohttp serves the connection. What it does for each write of a response (a coroutine, checks, a
drain) is done here by one call of the transport, since a stream consists of little else.
``tests/wire/relay/test_promptness.py`` watches what that relies on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from aiohttp import HttpVersion11

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from aiohttp import HttpVersion
    from multidict import CIMultiDictProxy

    from ollad.relay.exchange import ReplyHead
    from ollad.relay.outbox import Outbox

__all__ = ["Client", "ClientConnection", "Downstream", "send_whole"]

_BODILESS: Final = frozenset({204, 304})
"""Statuses whose replies have no body and no framing of one (RFC 9112 §6.3)."""

_COPIED: Final = 64 * 1024
"""Longer bodies are written beside their head instead of being copied behind it."""

_SIZED: Final = 0
_CHUNKED: Final = 1
_UNTIL_CLOSE: Final = 2


class ClientConnection(Protocol):
    """The connection that a client's request came on."""

    _paused: bool
    """Whether what was written waits for the client; aiohttp's own attribute."""

    on_pressure: Callable[[], None] | None
    """Called whenever what was written begins to wait."""

    on_relief: Callable[[], None] | None
    """Called once, when it waits no longer."""


class Client(Protocol):
    """A client's request, as far as the reply depends on it; aiohttp's requests are such."""

    @property
    def method(self) -> str:
        """Its method."""

    @property
    def version(self) -> HttpVersion:
        """The version of HTTP that the client speaks."""

    @property
    def keep_alive(self) -> bool:
        """Whether the client would use the connection again."""

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its headers."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Where to write to; None once the client has gone."""

    @property
    def protocol(self) -> object:
        """The connection, a ``ClientConnection`` if it is one of ollad's own."""


class Downstream:
    """A reply that is written while it arrives.

    The body is framed for the client whatever framing it came with: by its length where that is
    known, else in chunks, those of the backend where a segment held nothing but whole ones and one
    chunk for any other segment, or, to HTTP/1.0 clients, by the end of the connection.

    Attributes:
        transport: what it is written to.
        connection: that of the client.
        chunked: whether the body is framed in chunks, and there is one.
        keep_alive: whether the connection can be used again afterwards.
        trailing: whether trailers have been announced.

    Args:
        client: whom to answer.
        head: the backend's; its status, reason and length are sent on.
        lines: header lines, without those of the framing.
        last: end the connection after this response.
        trailers: names of what will be said after the body, if its framing allows.

    Raises:
        ConnectionResetError: the client has gone.
    """

    __slots__ = (
        "_ended",
        "_framing",
        "_head",
        "_silent",
        "chunked",
        "connection",
        "keep_alive",
        "trailing",
        "transport",
    )

    def __init__(
        self,
        client: Client,
        head: ReplyHead,
        lines: bytes,
        *,
        last: bool = False,
        trailers: Sequence[str] = (),
    ) -> None:
        transport = client.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        self.transport = transport
        self.connection = cast("ClientConnection", client.protocol)
        self._silent = client.method == "HEAD"
        if head.status in _BODILESS:
            self._framing = _SIZED
            framing = b""
        elif head.content_length is not None:
            self._framing = _SIZED
            framing = b"Content-Length: %d\r\n" % head.content_length
        elif client.version >= HttpVersion11:
            self._framing = _CHUNKED
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            self._framing = _UNTIL_CLOSE
            framing = b""
            last = True
        self.chunked = self._framing == _CHUNKED and not self._silent
        self._ended = False
        self.trailing = bool(trailers) and self.chunked
        if self.trailing:
            framing += b"Trailer: %b\r\n" % ", ".join(trailers).encode()
        self._head, self.keep_alive = _head(client, head, lines, framing, last)

    @property
    def until_close(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._framing == _UNTIL_CLOSE

    @property
    def congested(self) -> bool:
        """Whether the client takes bytes more slowly than they come."""
        return self.connection._paused  # noqa: SLF001 - as aiohttp's writer does

    def start(self, first: bytes) -> None:
        """Send the head, and with it the first bytes of the body."""
        head, self._head = self._head, b""  # a stream lives long
        if not first or self._silent:
            self.transport.write(head)
        elif self._framing == _CHUNKED:
            self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(first), first))
        elif len(first) < _COPIED:
            self.transport.write(head + first)
        else:
            self.transport.writelines((head, first))

    def pass_on(self, data: bytes) -> None:
        """Send more of the body."""
        if self._silent:
            return
        if self._framing == _CHUNKED:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.transport.write(data)

    def pass_chunks(self, chunks: bytes, last: bool) -> None:
        """Send more of a body that is ``chunked``, framed as it is.

        Args:
            chunks: whole ones.
            last: whether they end the body, which has no trailers then.
        """
        self.transport.write(chunks)
        self._ended = last

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the body, with ``trailers`` (RFC 9110 §6.5) if they have been announced."""
        if self.chunked and not self._ended:
            end = b"0\r\n\r\n"
            if trailers:
                lines = "".join([f"{name}: {value}\r\n" for name, value in trailers])
                end = b"0\r\n%b\r\n" % lines.encode("latin-1")
            self.transport.write(end)


def send_whole(
    client: Client, head: ReplyHead, lines: bytes, body: bytes, outbox: Outbox, *, last: bool
) -> bool:
    """Send a reply that is there as a whole.

    Args:
        client: whom to answer.
        head: the backend's; its status and reason are sent on.
        lines: header lines, without those of the framing.
        body: the whole of it.
        outbox: what it is sent by, if it is short and the connection stays open.
        last: end the connection afterwards.

    Returns:
        Whether the connection can be used again.

    Raises:
        ConnectionResetError: the client has gone.
    """
    transport = client.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("The client has gone.")
    framing = b"" if head.status in _BODILESS else b"Content-Length: %d\r\n" % len(body)
    start, keep_alive = _head(client, head, lines, framing, last)
    if client.method == "HEAD":
        transport.write(start)
    elif keep_alive and len(body) < _COPIED:
        outbox.write(transport, start + body)
    else:
        transport.writelines((start, body))
    return keep_alive


def _head(
    client: Client, head: ReplyHead, lines: bytes, framing: bytes, last: bool
) -> tuple[bytes, bool]:
    """Status line and headers, to the empty line, and whether the connection stays open."""
    version = client.version
    modern = version >= HttpVersion11
    persistent = client.keep_alive and not last
    if modern and persistent:
        return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (head.status, head.reason, lines, framing), True
    option = b"keep-alive" if persistent else b"close"
    start = b"HTTP/1.1" if modern else b"HTTP/%d.%d" % version
    return (
        b"%b %d %b\r\n%b%bConnection: %b\r\n\r\n"
        % (start, head.status, head.reason, lines, framing, option),
        persistent,
    )
