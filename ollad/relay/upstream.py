"""Connections to backends: one reply at a time, parsed by llhttp, reused while certainly clean.

A connection knows HTTP and nothing of what becomes of a reply: it hands the head and the bytes of
the body to the ``Receiver`` of the exchange under way, in the loop turn in which they arrive.
llhttp, strict as it is by default, refuses what could be read in two ways: repeated lengths, a
length beside chunked coding, bare line feeds, NULs, garbage chunk sizes (RFC 9112 §6.3, §11.2).
"""

from __future__ import annotations

import asyncio
import re
import select
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

from ollad.relay.chunks import UNKNOWN, opening, split
from ollad.relay.delivery import acknowledged
from ollad.relay.exchange import ReplyHead

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connection", "Receiver"]

_LONGEST_FRAMING: Final = 64 * 1024
"""Bytes of all heads of one reply, interim ones included, or of framing without any body."""

_VERSIONS: Final = frozenset({"1.0", "1.1"})
_BODILESS: Final = frozenset({204, 304})
_FIRST_BYTE: Final = ord("H")
_LINE_ENDS: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What a reason phrase does not contain (RFC 9112 §4); llhttp takes anything but line ends."""


class Receiver(Protocol):
    """What a connection tells the exchange that it carries, synchronously."""

    def head_received(self, head: ReplyHead) -> None:
        """The final head has come."""

    def body_received(self, data: bytes, chunks: bytes = b"") -> None:
        """More of the body has come; ``data`` is without its framing.

        ``chunks`` are the same bytes in whole chunks, if they came so: whoever takes a chunked
        body, too, may have them as they are.
        """

    def reply_ended(self) -> None:
        """The reply is whole; the connection is no longer the receiver's."""

    def connection_broken(self, error: BaseException | None) -> None:
        """The connection ended, or broke the protocol, before the reply was whole."""


class BrokenReplyError(Exception):
    """The backend sent what is not one well-formed reply."""


class Connection(asyncio.BufferedProtocol):
    """One connection to a backend.

    Args:
        buffer: where the kernel puts what it read; may be shared by all connections of an event
            loop, since every read is dealt with before the next.
        on_idle: called when a reply has ended and another request may be sent.
        on_lost: called once the connection is gone.

    Attributes:
        reused: whether the request under way is not its first.
        replied: whether any byte has come in answer to the request under way.
        unsent: whether a part of the request under way has not left this process.
        undelivered: whether, when it ended, nothing of the request had arrived for certain.
        idle_since: event-loop time since when it has been idle, seconds.
    """

    __slots__ = (
        "_before",
        "_buffer",
        "_chunked",
        "_complete",
        "_extra",
        "_framing_bytes",
        "_head",
        "_head_only",
        "_headers",
        "_keep_alive",
        "_missing",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_paused",
        "_pieces",
        "_poll",
        "_reason",
        "_receiver",
        "_told",
        "_transport",
        "_until_close",
        "_written",
        "idle_since",
        "replied",
        "reused",
        "undelivered",
        "unsent",
    )

    def __init__(
        self,
        buffer: bytearray,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self._buffer = memoryview(buffer)
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll()
        self.reused = False
        self.unsent = False
        self.undelivered = False
        self._written = 0
        self._before = 0
        self.idle_since = 0.0
        self._forget()

    def _forget(self) -> None:
        """Make ready for the next reply."""
        self.replied = False
        self._head: ReplyHead | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._head_only = False
        self._framing_bytes = 0
        self._pieces: list[bytes] = []
        self._told = False
        self._chunked = False
        self._missing = UNKNOWN
        self._complete = False
        self._extra = False
        self._keep_alive = False
        self._until_close = False
        self._paused = False

    # --- what an exchange does -----------------------------------------------------------------

    def send(
        self, receiver: Receiver, head: bytes, body: bytes, *, head_only: bool = False
    ) -> None:
        """Send a request; ``receiver`` is told of its reply.

        Args:
            receiver: of the reply.
            head: request line and headers, to the empty line.
            body: of the request.
            head_only: the reply ends with its head, as that to HEAD does (RFC 9112 §6.3).
        """
        transport = self._transport
        self._receiver = receiver
        self._head_only = head_only
        self._before = self._written
        self._written += len(head) + len(body)
        if transport is None or transport.is_closing():
            receiver.connection_broken(None)
        elif body:
            transport.writelines((head, body))
        else:
            transport.write(head)

    def pause_reading(self) -> None:
        """Read no more for now, so that the backend comes to wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """End the connection at once, whatever is under way; nobody is told."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        """Whether it has not been lost yet."""
        return self._transport is not None

    def clean(self) -> bool:
        """Whether it is open and holds nothing that was not asked for, neither bytes nor an end.

        Asks the kernel, since the event loop may not have read it yet.
        """
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self._poll.poll(0)

    # --- asyncio.BufferedProtocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports do what asyncio's do but are not derived from them
        self._transport = cast("asyncio.Transport", transport)
        # so that ``pause_writing`` tells of every byte that the kernel has not taken
        self._transport.set_write_buffer_limits(high=0)
        connection = transport.get_extra_info("socket")
        self._poll.register(connection.fileno(), select.POLLIN | select.POLLRDHUP)

    def pause_writing(self) -> None:
        """A part of the request waits for the backend to take it."""
        self.unsent = True

    def resume_writing(self) -> None:
        """The whole request has been sent."""
        self.unsent = False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is as long as it is
        """Where to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what came and tell the receiver."""
        data = self._buffer[:nbytes]
        receiver = self._receiver
        if receiver is None:
            self.abort()
        elif self._missing == 0:
            # between two chunks of a body: of a stream this happens for each event
            chunks, line = bytes(data), opening(nbytes)
            if line and chunks.startswith(line) and chunks.endswith(_LINE_ENDS):
                self._framing_bytes = 0
                receiver.body_received(chunks[len(line) : -2], chunks)
            else:
                self._chunks(receiver, chunks)
        elif self._told:
            self._more(receiver, data)
        else:
            self._first(receiver, data)

    def _first(self, receiver: Receiver, data: memoryview) -> None:
        """Take the head of a reply, or a part of it, and what follows it."""
        whole = not self.replied
        try:
            self._parse(data)
        except (httptools.HttpParserError, BrokenReplyError) as error:
            self._break(error)
            return
        if self._head is None:
            return
        self._told = True
        if self._chunked and whole:
            head = bytes(data)
            self._missing = split(head, head.index(_HEAD_END) + len(_HEAD_END))[1]
        receiver.head_received(self._head)
        self._tell(receiver)

    def _chunks(self, receiver: Receiver, chunks: bytes) -> None:
        """Take more of a body, at a place between two chunks.

        llhttp need not see whole chunks: it waits for the beginning of one, before and after.
        """
        pieces, self._missing = split(chunks)
        if self._missing:
            self._feed(receiver, chunks)
            return
        self._framing_bytes = 0
        receiver.body_received(b"".join(pieces), chunks)

    def _more(self, receiver: Receiver, data: memoryview) -> None:
        """Take more of a body, at any other place."""
        missing = self._missing
        if missing > 0:
            rest = len(data) - missing
            self._missing = -rest if rest <= 0 else split(bytes(data), missing)[1]
        self._feed(receiver, data)

    def _feed(self, receiver: Receiver, data: memoryview | bytes) -> None:
        try:
            self._parser.feed_data(data)
            if self._pieces and not self._complete:
                self._framing_bytes = 0
            else:
                self._check_end(data)
        except (httptools.HttpParserError, BrokenReplyError) as error:
            self._break(error)
            return
        self._tell(receiver)

    def _check_end(self, data: memoryview | bytes) -> None:
        """Judge what has no body in it, or is the end of one."""
        if self._extra:
            raise BrokenReplyError("bytes after the reply")
        if self._complete:
            self._keep_alive = self._keep_alive and self._ends_with(data)
            return
        self._framing_bytes += len(data)
        if self._framing_bytes > _LONGEST_FRAMING:
            raise BrokenReplyError("framing without end")

    def _tell(self, receiver: Receiver) -> None:
        """Hand over what has come."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            receiver.body_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._complete:
            self._end(receiver)

    def _parse(self, data: memoryview) -> None:
        if not self.replied:
            self.replied = True
            if data[0] != _FIRST_BYTE:
                raise BrokenReplyError("bytes before the reply")
        self._parser.feed_data(data)
        if self._extra:
            raise BrokenReplyError("bytes after the reply")
        self._limit_head(len(data))
        if self._head_only and self._head is not None:
            self._end_with_head(data)
        elif self._complete:
            self._keep_alive = self._keep_alive and self._ends_with(data)

    def _limit_head(self, length: int) -> None:
        self._framing_bytes += length
        if self._framing_bytes > _LONGEST_FRAMING and (
            self._head is None
            or sum([len(name) + len(value) + 4 for name, value in self._headers]) > _LONGEST_FRAMING
        ):
            raise BrokenReplyError("the head is too long")
        if self._head is not None:
            self._framing_bytes = 0

    def _end_with_head(self, data: memoryview) -> None:
        """End a reply that has no body, whatever its head says of one."""
        if self._pieces or data[-1] != _LINE_ENDS[-1] or (self._complete and self._chunked):
            raise BrokenReplyError("bytes after the head")
        if not self._complete:
            self._complete = True
            self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
            self._parser = httptools.HttpResponseParser(self)
        self._keep_alive = self._keep_alive and _ends_framing(data)

    def _ends_with(self, data: memoryview | bytes) -> bool:
        """Whether nothing in ``data`` follows the reply, for certain.

        What may follow is line ends only, which llhttp passes over; it refuses anything else.
        """
        if self._head is None or not self._head.content_length:
            return _ends_framing(data)
        if data[-1] not in _LINE_ENDS:
            return True
        # the body ends with line ends itself
        tail = b"".join(self._pieces)
        length = len(tail)
        return length == len(data) or (tail.strip(_LINE_ENDS) != b"" and data[-length:] == tail)

    def _end(self, receiver: Receiver) -> None:
        self._receiver = None
        transport = self._transport
        if transport is None:
            pass
        elif (
            self._keep_alive
            and not transport.is_closing()
            # a reply that overtook its request leaves a rest of that
            and not transport.get_write_buffer_size()
        ):
            if self._paused:
                transport.resume_reading()
            self._forget()
            self.reused = True
            self._on_idle(self)
        else:
            transport.abort()
        receiver.reply_ended()

    def _break(self, error: BaseException | None) -> None:
        receiver, self._receiver = self._receiver, None
        if self._transport is not None:
            self._transport.abort()
        if receiver is not None:
            receiver.connection_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reply, whole if it was to last until now, else broken."""
        if self._transport is not None and exc is None and self._before:
            # a reset says nothing: it can overtake the acknowledgement of what was read
            self.undelivered = acknowledged(self._transport) <= self._before
        self._transport = None
        receiver, self._receiver = self._receiver, None
        self._on_lost(self)
        if receiver is None:
            return
        if exc is None and self._told and self._until_close:
            receiver.reply_ended()
        else:
            receiver.connection_broken(exc)

    # --- llhttp --------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A reply begins, the one awaited or one too many."""
        if self._complete:
            self._extra = True

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers (RFC 9110 §6.5) are dropped."""
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Judge the framing of the body."""
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return
        if status < 200:
            raise BrokenReplyError("a status that nobody asked for")
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise BrokenReplyError("not HTTP/1")
        if _CONTROL.search(self._reason):
            raise BrokenReplyError("control characters in the reason phrase")
        length, chunked, content_type = _framing(self._headers)
        self._chunked = chunked
        self._until_close = length is None and not chunked and status not in _BODILESS
        # HTTP/1.0 knows no chunks: one such reply may be read, none after it (RFC 9112 §6.1)
        self._keep_alive = not (self._until_close or (chunked and version == "1.0"))
        self._head = ReplyHead(
            status=status,
            reason=self._reason,
            headers=self._headers,
            content_type=content_type,
            content_length=0 if status in _BODILESS else length,
            event_stream=content_type.startswith("text/event-stream"),
        )

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body until the segment has been parsed."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """A reply is whole; an interim one is forgotten (RFC 9110 §15.2)."""
        if self._head is None:
            if self._pieces:
                raise BrokenReplyError("an interim reply with a body")
            self._headers = []
            self._reason = b""
        else:
            self._complete = True
            # asked only now: trailers may hold a Connection header, too
            self._keep_alive = self._keep_alive and self._parser.should_keep_alive()


def _ends_framing(data: memoryview | bytes) -> bool:
    """Whether the last line of ``data`` is the only empty one there."""
    end = bytes(data[-5:])
    return len(end) == 5 and end[1:] == _HEAD_END and end[0] not in _LINE_ENDS


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[int | None, bool, str]:
    """Content-Length, whether the body is chunked, and the content type in lower case."""
    length: int | None = None
    chunked = False
    content_type = ""
    for name, value in headers:
        match len(name):
            case 12 if name.lower() == b"content-type":
                content_type = value.decode("latin-1").strip().lower()
            case 14 if name.lower() == b"content-length":
                length = int(value)
            case 17 if name.lower() == b"transfer-encoding":
                if chunked or value.strip().lower() != b"chunked":
                    raise BrokenReplyError("a transfer coding other than chunked")
                chunked = True
    return length, chunked, content_type
