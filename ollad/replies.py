"""What becomes of a backend's reply on its way to the client.

``ClientSink`` decides between holding a reply, to read its figures and add to it, and streaming
it on; ``HoldSink`` keeps replies that ollad asked for on its own account.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ollad.announcement import announced_lines, final_announcement
from ollad.errors import BackendError
from ollad.headers import reply_lines
from ollad.record import RECORD
from ollad.relay.downstream import DownstreamReply
from ollad.relay.exchange import Plan
from ollad.sglang.annotate import cache_hit, spec_decode
from ollad.sglang.events import StreamScanner, overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from ollad.gateway import Gateway, Runtime
    from ollad.metrics.histogram import Observations
    from ollad.record import RequestRecord
    from ollad.relay.exchange import ReplyHead
    from ollad.sglang.annotate import Usage

__all__ = ["HELD_REPLY_BYTES", "ClientSink", "HoldSink", "Reading"]

HELD_REPLY_BYTES: Final = 1024 * 1024
"""Longer replies are not held back for their figures."""

_OWN_REPLY_BYTES: Final = 16 * 1024 * 1024
"""Longest reply to an exchange of ollad's own, such as an item of a batch."""

_FIRST_EVENT_BYTES: Final = 64 * 1024
"""A stream begins once its first event is there, or this many bytes of it."""

_UNBUFFERED: Final = b"X-Accel-Buffering: no\r\n"
"""Keeps nginx in front of ollad from collecting a stream."""

_LOOK_BYTES: Final = 2 * 1024
"""How much of a stream may pass before it is scanned, many events at once."""

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
    """Sends a reply on to the client of ``request``."""

    __slots__ = (
        "_gaps",
        "_gateway",
        "_last_chunk",
        "_look_at",
        "_pool",
        "_reading",
        "_record",
        "_request",
        "_scanner",
        "_trailing",
        "_unseen",
    )

    def __init__(
        self, request: web.Request, gateway: Gateway, runtime: Runtime, reading: Reading
    ) -> None:
        self._request = request
        self._record: RequestRecord = request[RECORD]
        self._gateway = gateway
        self._pool = runtime.pool
        self._reading = reading
        self._last_chunk: float | None = None
        self._gaps: Observations | None = None
        self._trailing: frozenset[str] = frozenset()
        self._scanner: StreamScanner | None = None
        self._unseen: list[bytes] = []
        self._look_at = _LOOK_BYTES
        if reading.cached:
            self._record.cache_hit = self._record.spec_decode = "unknown"

    @property
    def scanner(self) -> StreamScanner | None:
        """What was seen of a stream, up to its last byte; None for any other reply."""
        self._look()
        return self._scanner

    @property
    def limit(self) -> int:
        """Most bytes to hold."""
        return HELD_REPLY_BYTES

    def plan(self, head: ReplyHead) -> Plan:
        """Hold errors, which may be retried, and JSON whose figures are wanted."""
        if self._request.method == "HEAD":
            return Plan.DROP
        if head.content_length is not None and head.content_length > HELD_REPLY_BYTES:
            return Plan.STREAM
        if head.status >= 400:
            return Plan.HOLD
        wanted = (
            self._reading.usage is not None
            and head.status < 300
            and head.content_type.startswith("application/json")
        )
        return Plan.HOLD if wanted else Plan.STREAM

    def ready(self, head: ReplyHead, first: bytes) -> bool:
        """Whether any of the body, or the first event of a stream, is there."""
        if not head.event_stream:
            return bool(first)
        return len(first) >= _FIRST_EVENT_BYTES or _EVENT_END.search(first) is not None

    def refuses(self, head: ReplyHead, first: bytes) -> bool:
        """Whether the stream begins with SGLang's queue-full error."""
        return head.event_stream and overloaded(first)

    def begin(self, head: ReplyHead, first: bytes) -> DownstreamReply:
        """Make the client's response."""
        record = self._record
        record.first_byte = self._gateway.clock() - record.started
        record.status = head.status
        lines, sent = reply_lines(head.headers)
        if head.event_stream:
            record.streamed = True
            lines += _UNBUFFERED
            if self._reading.cached:
                peek = StreamScanner(tail=self._reading.tail)
                peek.feed(first)
                self._announce(peek.final_usage(self._reading.kind))
            self._scanner = StreamScanner(tail=self._reading.tail)
            self._gaps = self._gateway.telemetry.chunk_gaps(record.family)
            if _takes_trailers(self._request):
                names = [name for name, _ in final_announcement(record, 0.0)]
                self._trailing = frozenset([name for name in names if name not in sent])
        return DownstreamReply(
            self._request,
            head.status,
            head.reason,
            lines + announced_lines(record, record.first_byte, sent),
            head.content_length,
            last=self._gateway.draining,
            trailers=sorted(self._trailing),
        )

    def trailers(self) -> list[tuple[str, str]]:
        """The figures of the whole stream."""
        self.read_stream()
        elapsed = self._gateway.clock() - self._record.started
        figures = final_announcement(self._record, elapsed)
        return [pair for pair in figures if pair[0] in self._trailing]

    def observe(self, chunk: bytes, now: float) -> None:
        """Count the bytes, time the gap, and keep what is to be scanned."""
        record = self._record
        record.response_bytes = seen = record.response_bytes + len(chunk)
        gaps, last = self._gaps, self._last_chunk
        if gaps is None:
            return
        if last is not None:
            gaps.observe(now - last)
        self._last_chunk = now
        self._unseen.append(chunk)
        if seen >= self._look_at:
            self._look_at = seen + _LOOK_BYTES
            self._look()

    def _look(self) -> None:
        """Scan what has passed since the last time."""
        if self._unseen and self._scanner is not None:
            self._scanner.feed(b"".join(self._unseen))
            self._unseen.clear()

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
        backend = self._pool.get(record.endpoint or "")
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

    def begin(self, head: ReplyHead, first: bytes) -> DownstreamReply:  # noqa: ARG002
        """Refuse to stream.

        Raises:
            BackendError: always; the reply is longer than ollad will hold.
        """
        raise BackendError(f"The backend's reply is longer than {_OWN_REPLY_BYTES} bytes.")

    def trailers(self) -> tuple[()]:
        """Nothing; there is no client."""
        return ()

    def observe(self, chunk: bytes, now: float) -> None:
        """Nothing is passed on, so there is nothing to see."""


def _takes_trailers(request: web.BaseRequest) -> bool:
    """Whether the client says that it reads trailers (RFC 9110 §10.1.4)."""
    return any(
        coding.strip().lower() == "trailers"
        for value in request.headers.getall("TE", ())
        for coding in value.split(",")
    )
