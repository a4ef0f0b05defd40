"""What becomes of a backend's reply on its way to the client.

``ClientSink`` decides between holding a reply, to read its figures and add to it, and streaming
it on; ``HoldSink`` keeps replies that ollad asked for on its own account.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs

from ollad.announcement import announced_lines, final_announcement
from ollad.errors import BackendError
from ollad.relay.chunks import opening
from ollad.relay.downstream import Downstream
from ollad.relay.exchange import Plan
from ollad.relay.reading import RECENT_EVENTS
from ollad.sglang.annotate import cache_hit, spec_decode
from ollad.sglang.events import StreamScanner
from ollad.sglang.opening import read_opening

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ollad.backends.backend import Backend
    from ollad.gateway import Gateway, Runtime
    from ollad.metrics.histogram import Observations
    from ollad.record import RequestRecord
    from ollad.relay.downstream import Client
    from ollad.relay.exchange import ReplyHead
    from ollad.sglang.annotate import Usage
    from ollad.sglang.opening import Opening

__all__ = ["HELD_REPLY_BYTES", "ClientSink", "HoldSink", "Reading"]

HELD_REPLY_BYTES: Final = 1024 * 1024
"""Longer replies are not held back for their figures."""

_OWN_REPLY_BYTES: Final = 16 * 1024 * 1024
"""Longest reply to an exchange of ollad's own, such as an item of a batch."""

_FIRST_EVENT_BYTES: Final = 64 * 1024
"""A stream begins once its first event is there, or this many bytes of it."""

_UNBUFFERED: Final = b"X-Accel-Buffering: no\r\n"
"""Keeps nginx in front of ollad from collecting a stream."""

# as plain names, since each reply asks for them
_DROP: Final = Plan.DROP
_HOLD: Final = Plan.HOLD
_STREAM: Final = Plan.STREAM

_EVENT_END: Final = re.compile(rb"\n\n|\r\n\r\n|\r\r")


class Reading:
    """How the replies of one endpoint family are read.

    Args:
        kind: what ``StreamScanner.final_usage`` calls the family's streams.
        usage: reads the figures of a whole reply; None where it has none worth holding it for.
        cached: whether the radix cache plays a part at all.
        tail: bytes of a stream's end that are kept for its final figures.
    """

    __slots__ = ("cached", "kind", "tail", "usage")

    def __init__(
        self,
        kind: str,
        usage: Callable[[Mapping[str, Any]], Usage] | None,
        *,
        cached: bool = True,
        tail: int = 64 * 1024,
    ) -> None:
        self.kind = kind
        self.usage = usage
        self.cached = cached
        self.tail = tail


class ClientSink:
    """Sends a reply on to the client.

    Args:
        client: whose request it was.
        record: of the request.
        gateway: the running daemon.
        runtime: the configuration that the request is served by.
        reading: how the reply is read.
    """

    _backend: Backend | None = None
    _gaps: Observations | None = None
    _last_chunk: float | None = None
    _opening: Opening | None = None
    _passed = 0
    """Bytes since the last that was scanned."""
    _recent: Sequence[bytes] = ()
    """Chunks of the last events that tell figures, not scanned yet."""
    _scanner: StreamScanner | None = None
    _trailing: Sequence[str] = ()

    def __init__(
        self,
        client: Client,
        record: RequestRecord,
        gateway: Gateway,
        runtime: Runtime,
        reading: Reading,
    ) -> None:
        self._client = client
        self._record = record
        self._gateway = gateway
        self._runtime = runtime
        self._reading = reading
        if reading.cached:
            record.cache_hit = record.spec_decode = "unknown"

    @property
    def scanner(self) -> StreamScanner | None:
        """What was seen of a stream, up to its last byte; None for any other reply."""
        self.catch_up()
        return self._scanner

    def catch_up(self) -> None:
        """Scan what has passed of a stream."""
        scanner = self._scanner
        if scanner is None or not self._passed:
            return
        recent = b"".join([chunk[len(opening(len(chunk))) : -2] for chunk in self._recent])
        scanner.skip(self._passed - len(recent))
        if recent:
            scanner.feed(recent)
        self._recent, self._passed = (), 0

    limit = HELD_REPLY_BYTES
    """Most bytes to hold."""

    def plan(self, head: ReplyHead) -> Plan:
        """Hold errors, which may be retried, and JSON whose figures are wanted."""
        if self._client.method == "HEAD":
            return _DROP
        length = head.content_length
        if length is not None and length > HELD_REPLY_BYTES:
            return _STREAM
        wanted = head.status >= 400 or (
            self._reading.usage is not None
            and head.status < 300
            and head.content_type.startswith("application/json")
        )
        return _HOLD if wanted else _STREAM

    def ready(self, head: ReplyHead, first: bytes) -> bool:
        """Whether any of the body, or the first event of a stream, is there."""
        if not head.event_stream:
            return bool(first)
        return len(first) >= _FIRST_EVENT_BYTES or _EVENT_END.search(first) is not None

    def refuses(self, head: ReplyHead, first: bytes) -> bool:
        """Whether the stream begins with SGLang's queue-full error."""
        if not head.event_stream:
            return False
        self._opening = read_opening(first, self._reading.kind, self._reading.tail)
        return self._opening.overloaded

    def begin(self, head: ReplyHead, first: bytes) -> Downstream:
        """Make the client's response."""
        record = self._record
        record.first_byte = self._gateway.clock() - record.started
        record.status = head.status
        lines, sent = head.lines, head.believed
        if head.event_stream:
            record.streamed = True
            lines += _UNBUFFERED
            if self._reading.cached:
                begun = self._opening or read_opening(first, self._reading.kind, self._reading.tail)
                self._announce(begun.usage)
                self._opening = None
            self._watch_stream()
            if _takes_trailers(self._client):
                names = [name for name, _ in final_announcement(record, 0.0)]
                self._trailing = sorted([name for name in names if name not in sent])
        return Downstream(
            self._client,
            head,
            lines + announced_lines(record, record.first_byte, sent),
            last=self._gateway.draining,
            trailers=self._trailing,
        )

    def _watch_stream(self) -> None:
        """Make ready for what ``observe`` and ``observe_events`` will see."""
        self._scanner = StreamScanner(tail=self._reading.tail)
        self._gaps = self._gateway.telemetry.chunk_gaps(self._record.family)

    def trailers(self) -> list[tuple[str, str]]:
        """The figures of the whole stream."""
        self.read_stream()
        elapsed = self._gateway.clock() - self._record.started
        figures = final_announcement(self._record, elapsed)
        return [pair for pair in figures if pair[0] in self._trailing]

    def observe(self, data: bytes, now: float) -> None:
        """Count the bytes, time the gap, and scan a stream."""
        self._record.response_bytes += len(data)
        scanner = self._scanner
        if self._gaps is None or scanner is None:
            return
        self.catch_up()
        scanner.feed(data)
        if self._last_chunk is not None:
            self._gaps.observe(now - self._last_chunk)
        self._last_chunk = now

    def event_gaps(self) -> Observations | None:
        """Where to count them, once the first event has been seen, if only the last ones matter."""
        scanner = self._scanner
        return self._gaps if scanner is not None and scanner.last_events_suffice else None

    def silent_ending(self) -> bytes:
        """How events end that tell no figures; of other kinds than chats any may."""
        scanner = self._scanner
        return b"" if scanner is None or self._reading.kind != "openai" else scanner.silent_ending

    def observe_events(self, size: int, recent: Sequence[bytes], last: float) -> None:
        """Count the bytes, and keep the last events to be scanned at the end of the stream."""
        self._last_chunk = last
        self._record.response_bytes += size
        self._passed += size
        self._recent = [*self._recent, *recent][-RECENT_EVENTS:]

    def read_stream(self) -> None:
        """Take the figures of a stream, as far as it has passed, into the record."""
        scanner = self.scanner
        if scanner is not None:
            self.read(scanner.final_usage(self._reading.kind))

    def read(self, usage: Usage | None) -> None:
        """Take the figures of the whole reply into the record."""
        self._record.usage = usage
        if self._reading.cached:
            self._announce(usage)

    def _announce(self, usage: Usage | None) -> None:
        record = self._record
        backend = self._backend
        if backend is None:
            backend = self._backend = self._runtime.pool.get(record.endpoint or "")
        speculative = backend.snapshot.engine.speculative if backend else None
        record.cache_hit = "unknown" if usage is None else cache_hit(usage)
        record.spec_decode = spec_decode(usage, speculative)


class HoldSink:
    """Keeps the whole reply for ollad itself."""

    limit = _OWN_REPLY_BYTES

    def plan(self, head: ReplyHead) -> Plan:  # noqa: ARG002 - whatever the reply is
        """Hold it."""
        return Plan.HOLD

    def ready(self, head: ReplyHead, first: bytes) -> bool:  # noqa: ARG002 - whatever the reply is
        """Whether any of the body is there."""
        return bool(first)

    def refuses(self, head: ReplyHead, first: bytes) -> bool:  # noqa: ARG002 - never streamed
        """Not asked for held replies."""
        return False

    def begin(self, head: ReplyHead, first: bytes) -> Downstream:  # noqa: ARG002
        """Refuse to stream.

        Raises:
            BackendError: always; the reply is longer than ollad will hold.
        """
        raise BackendError(f"The backend's reply is longer than {_OWN_REPLY_BYTES} bytes.")

    def trailers(self) -> tuple[()]:
        """Nothing; there is no client."""
        return ()

    def observe(self, data: bytes, now: float) -> None:
        """Nothing is passed on, so there is nothing to see."""

    def event_gaps(self) -> None:
        """Nothing is passed on."""

    def silent_ending(self) -> bytes:
        """The same."""
        return b""

    def observe_events(self, size: int, recent: Sequence[bytes], last: float) -> None:
        """The same."""


def _takes_trailers(client: Client) -> bool:
    """Whether the client says that it reads trailers (RFC 9110 §10.1.4)."""
    return hdrs.TE in client.headers and any(
        coding.strip().lower() == "trailers"
        for value in client.headers.getall(hdrs.TE)
        for coding in value.split(",")
    )
