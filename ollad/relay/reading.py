"""The replies of one connection to a backend: parsed by llhttp, or known by their bytes.

A reader hands the head and the bytes of the body to the ``Receiver`` of the exchange under way, in
the loop turn in which they arrive. llhttp, strict as it is by default, refuses what could be read
in two ways: repeated lengths, a length beside chunked coding, bare line feeds, NULs, garbage chunk
sizes (RFC 9112 §6.3, §11.2). What need not be parsed is not shown to it: a whole reply, or the
beginning of a chunked one, whose head it has taken before, and whole chunks.
"""

from __future__ import annotations

import asyncio
import functools
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol

import httptools

from ollad.framing import HEAD_END
from ollad.relay.chunks import UNKNOWN, opening, split
from ollad.relay.replyhead import BrokenReplyError, is_chunked, reply_head, sized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.framing import FamiliarHeads
    from ollad.metrics.histogram import Observations
    from ollad.relay.exchange import ReplyHead
    from ollad.relay.outbox import Outbox

__all__ = ["RECENT_EVENTS", "Receiver", "ReplyReader"]

_LONGEST_FRAMING: Final = 64 * 1024
"""Bytes of all heads of one reply, interim ones included, or of framing without any body."""

_FIRST_BYTE: Final = ord("H")
_LINE_ENDS: Final = b"\r\n"
_EVENT_END: Final = b"\n\n\r\n"
"""How a chunk ends that ends with an event."""

_LAST_CHUNK: Final = b"0\r\n\r\n"

_SHORT: Final = [opening(length) for length in range(1024)]
"""The size lines of chunks with short events, by the length of the chunk."""

_NO_ENDING: Final = bytes(len(_SHORT))
"""How no chunk with a short event ends, as none is so long."""

_ENDINGS: Final = 64
"""How many endings of events are remembered."""

RECENT_EVENTS: Final = 16
"""Most events that were passed on and are kept."""


class Receiver(Protocol):
    """What a connection tells the exchange that it carries, synchronously."""

    def head_received(self, head: ReplyHead) -> None:
        """The final head has come."""

    def whole_received(self, head: ReplyHead, body: bytes) -> None:
        """The reply has come in one piece; the connection is no longer the receiver's."""

    def body_received(self, data: bytes) -> None:
        """More of the body has come; ``data`` is without its framing."""

    def chunks_received(self, chunks: bytes, data: bytes, last: bool) -> None:
        """More of the body has come, in whole chunks, which hold ``data``.

        Whoever takes a chunked body, too, may have them as they are.

        Args:
            chunks: all of them.
            data: without their framing.
            last: whether they end the body.
        """

    def events_passed(self, size: int, recent: Sequence[bytes], last: float) -> None:
        """Events were passed on, each in a chunk of its own.

        Args:
            size: bytes of all of them, without their framing.
            recent: the chunks of the last ones that tell anything.
            last: when the last one was passed on, monotonic seconds.
        """

    def reply_ended(self) -> None:
        """The reply is whole; the connection is no longer the receiver's."""

    def connection_broken(self, error: BaseException | None) -> None:
        """The connection ended, or broke the protocol, before the reply was whole."""


class ReplyReader(asyncio.Protocol):
    """Reads the replies that come on a connection, one after the other.

    Args:
        heads: what is known of the heads of the backend's replies.
        outbox: what events are passed on by.

    Attributes:
        replied: whether any byte has come in answer to the request under way.
    """

    __deletable__ = ("_parser",)
    __slots__ = (
        "_chunked",
        "_complete",
        "_extra",
        "_framing_bytes",
        "_gaps",
        "_head",
        "_head_only",
        "_headers",
        "_heads",
        "_keep_alive",
        "_last",
        "_missing",
        "_onward",
        "_outbox",
        "_parser",
        "_passed",
        "_pieces",
        "_reason",
        "_receiver",
        "_recent",
        "_silent",
        "_told",
        "_unparsed",
        "_until_close",
        "replied",
    )

    # What each event needs, which where this is compiled stands side by side in memory.
    _missing: int
    _onward: asyncio.Transport | None
    _outbox: Outbox
    _silent: bytes
    _gaps: Observations
    _last: float
    _passed: int

    _parser: httptools.HttpResponseParser

    def __init__(self, heads: FamiliarHeads[ReplyHead], outbox: Outbox) -> None:
        self._heads = heads
        self._outbox = outbox
        self._receiver: Receiver | None = None
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
        self._unparsed = b""
        self._onward = None
        self._passed = 0
        self._recent: list[bytes] = []
        self._complete = False
        self._extra = False
        self._keep_alive = False
        self._until_close = False

    # --- what a connection does ----------------------------------------------------------------

    def abort(self) -> None:
        """End the connection at once, whatever is under way; nobody is told."""
        raise NotImplementedError

    def _end(self, receiver: Receiver) -> None:
        """A reply that was parsed is whole."""
        raise NotImplementedError

    def _release(self) -> bool:
        """A reply that need not be parsed is whole; False: there is no connection any more."""
        raise NotImplementedError

    def _break(self, error: BaseException | None) -> None:
        """What came is not one well-formed reply."""
        raise NotImplementedError

    # --- what arrives --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came and tell the receiver."""
        if self._missing == 0:
            # between two chunks of a body: of a stream this happens for each event
            size = len(data)
            line = _SHORT[size] if size < len(_SHORT) else b""
            onward = self._onward
            if line and onward and data.startswith(line):
                silent = data.endswith(self._silent)
                if silent or data.endswith(_EVENT_END):
                    self._outbox.write(onward, data)
                    now = monotonic()
                    self._gaps.observe(now - self._last)
                    self._last = now
                    self._passed += size - len(line) - len(_LINE_ENDS)
                    if not silent:
                        recent = self._recent
                        if len(recent) == RECENT_EVENTS:
                            del recent[0]
                        recent.append(data)
                    return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Parse anything but an event that is passed on as it came."""
        if self._onward is not None:
            self.tell_events()
        receiver = self._receiver
        if receiver is None:
            self.abort()
        elif self._missing == 0:
            self._chunks(receiver, data)
        elif self._told:
            self._more(receiver, data)
        elif self.replied or self._head_only or not self._take_familiar(receiver, data):
            self._first(receiver, data)

    def pass_events(
        self, onward: asyncio.Transport, gaps: Observations, last: float, ending: bytes
    ) -> None:
        """From now on, write events that came each in a short chunk of its own to ``onward``.

        The receiver is told of them when anything else comes: it has to take the time of the last
        from ``last_event``, and to call ``tell_events`` before it can know of all.

        Args:
            onward: what takes a chunked body, too.
            gaps: where the seconds between two events are counted.
            last: when the last one was passed on before, monotonic seconds.
            ending: how events end that tell nothing, without the blank line; none if empty. They
                are not kept: even a few of each stream push what the next event needs out of
                the processor's caches.
        """
        self._onward = onward
        self._gaps = gaps
        self._last = last
        self._silent = _silent_event(ending) if ending else _NO_ENDING

    @property
    def last_event(self) -> float:
        """When a part of a stream came whose events are passed on, monotonic seconds; else 0."""
        return 0.0 if self._onward is None else self._last

    def tell_events(self) -> None:
        """Tell the receiver of events that it was not told of, once they have been written."""
        size, recent = self._passed, self._recent
        if not size:
            return
        self._outbox.flush()
        self._passed, self._recent = 0, []
        if self._receiver is not None:
            self._receiver.events_passed(size, recent, self._last)

    def _take_familiar(self, receiver: Receiver, data: bytes) -> bool:
        """Take a reply with a head that was seen before; False if llhttp has to see it."""
        start = data.find(HEAD_END) + len(HEAD_END)
        found = self._heads.recall(data, start)
        if found is None:
            return False
        head, length = found
        if length is None:
            # of a length in an odd spelling nothing is known here
            return head.content_length is None and self._take_chunked(receiver, head, data, start)
        if len(data) != start + length or not self._release():
            return False
        receiver.whole_received(sized(head, length), data[start:])
        return True

    def _take_chunked(self, receiver: Receiver, head: ReplyHead, data: bytes, start: int) -> bool:
        """Take the beginning of a chunked reply; llhttp is shown it only if it has to be."""
        pieces, missing = split(data, start)
        if missing:
            return False
        self._unparsed = data[:start]
        self._head = head
        self.replied = self._told = self._chunked = self._keep_alive = True
        self._missing = 0
        receiver.head_received(head)
        if pieces:
            receiver.body_received(b"".join(pieces))
        return True

    def _first(self, receiver: Receiver, data: bytes) -> None:
        """Take the head of a reply, or a part of it, and what follows it."""
        whole = not self.replied
        try:
            self._parse(data)
        except (httptools.HttpParserError, BrokenReplyError) as error:
            self._break(error)
            return
        head = self._head
        if head is None:
            return
        self._told = True
        if whole:
            self._learn(head, data)
        receiver.head_received(head)
        self._tell(receiver)

    def _learn(self, head: ReplyHead, data: bytes) -> None:
        """Remember a head that came whole, after which the connection can be used again."""
        start = data.index(HEAD_END) + len(HEAD_END)
        if self._chunked:
            self._missing = split(data, start)[1]
            lasting = not any(name.lower().endswith(b"connection") for name, _ in head.headers)
            if self._missing == 0 and not self._complete and self._keep_alive and lasting:
                self._heads.learn(data, start, lambda: head)
        elif (
            self._complete
            and self._keep_alive
            and not self._head_only
            and head.content_length == len(data) - start > 0
        ):
            self._heads.learn(data, start, lambda: head)

    def _chunks(self, receiver: Receiver, chunks: bytes) -> None:
        """Take more of a body, at a place between two chunks.

        llhttp need not see whole chunks: it waits for the beginning of one, before and after. Nor
        need it see the end of a reply of which it has seen nothing.
        """
        if self._unparsed and chunks.endswith(_LAST_CHUNK):
            pieces, missing = split(chunks[: -len(_LAST_CHUNK)])
            if missing == 0:
                if pieces:
                    receiver.chunks_received(chunks, b"".join(pieces), last=True)
                self._end(receiver)
                return
        pieces, self._missing = split(chunks)
        if self._missing:
            self._feed(receiver, chunks)
            return
        self._framing_bytes = 0
        self._last = monotonic()
        receiver.chunks_received(chunks, b"".join(pieces), last=False)

    def _more(self, receiver: Receiver, data: bytes) -> None:
        """Take more of a body, at any other place."""
        missing = self._missing
        if missing > 0:
            rest = len(data) - missing
            self._missing = -rest if rest <= 0 else split(data, missing)[1]
        self._feed(receiver, data)

    def _feed(self, receiver: Receiver, data: bytes) -> None:
        try:
            if self._unparsed:
                head, self._unparsed, self._head = self._unparsed, b"", None
                self._parser.feed_data(head)
            self._parser.feed_data(data)
            if self._pieces and not self._complete:
                self._framing_bytes = 0
            else:
                self._check_end(data)
        except (httptools.HttpParserError, BrokenReplyError) as error:
            self._break(error)
            return
        self._tell(receiver)

    def _check_end(self, data: bytes) -> None:
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
            self._last = monotonic()
            pieces, self._pieces = self._pieces, []
            receiver.body_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._complete:
            self._end(receiver)

    def _parse(self, data: bytes) -> None:
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

    def _end_with_head(self, data: bytes) -> None:
        """End a reply that has no body, whatever its head says of one."""
        if self._pieces or data[-1] != _LINE_ENDS[-1] or (self._complete and self._chunked):
            raise BrokenReplyError("bytes after the head")
        if not self._complete:
            self._complete = True
            self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
            self._parser = httptools.HttpResponseParser(self)
        self._keep_alive = self._keep_alive and _ends_framing(data)

    def _ends_with(self, data: bytes) -> bool:
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
        head = self._head = reply_head(status, self._reason, self._headers, version)
        self._chunked = is_chunked(self._headers)
        self._until_close = head.content_length is None and not self._chunked
        # HTTP/1.0 knows no chunks: one such reply may be read, none after it (RFC 9112 §6.1)
        self._keep_alive = not (self._until_close or (self._chunked and version == "1.0"))

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


@functools.lru_cache(_ENDINGS)
def _silent_event(ending: bytes) -> bytes:
    """How the chunk of an event ends that ends so; one object for the streams that have it alike.

    Each event of each stream is compared with it, for which it should be in the processor's caches.
    """
    return ending + _EVENT_END


def _ends_framing(data: bytes) -> bool:
    """Whether the last line of ``data`` is the only empty one there."""
    end = data[-5:]
    return len(end) == 5 and end[1:] == HEAD_END and end[0] not in _LINE_ENDS
