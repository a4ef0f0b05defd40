"""The values that cross the relay's seam."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ollad.relay.downstream import Downstream

if TYPE_CHECKING:
    from ollad.metrics.histogram import Observations

__all__ = ["Fault", "Outcome", "Plan", "ReplyHead", "Sink", "UpstreamRequest"]


class UpstreamRequest(NamedTuple):
    """What is sent to a backend.

    Attributes:
        method: HTTP method.
        target: path and query below the endpoint's URL, percent-encoded.
        header_lines: end-to-end headers as they go on the wire, without Host and Content-Length.
        body: the whole body.
    """

    method: str
    target: str
    header_lines: bytes
    body: bytes


class ReplyHead(NamedTuple):
    """Status line and headers of a backend's final reply.

    Attributes:
        status: status code.
        reason: reason phrase.
        headers: names and values as received, in order; of a head that was seen before, those of
            the first time, whose ``Content-Length`` may have been another.
        content_type: in lower case, with its parameters; empty if there is none.
        content_length: of the body in bytes, or None if the head does not say.
        event_stream: whether the body is a stream of server-sent events.
        lines: those header lines that go on to the client, ``reply_lines`` of ``headers``.
        believed: names among them that ollad would add by itself.
    """

    status: int
    reason: bytes
    headers: Sequence[tuple[bytes, bytes]]
    content_type: str
    content_length: int | None
    event_stream: bool = False
    lines: bytes = b""
    believed: frozenset[str] = frozenset()


class Plan(enum.Enum):
    """What becomes of a reply."""

    HOLD = "hold"
    """Read it whole and hand it to the caller; past the limit it is streamed on instead."""
    STREAM = "stream"
    """Pass its bytes on as they arrive."""
    DROP = "drop"
    """Pass its head on alone, as HEAD asks for."""


class Fault(enum.Enum):
    """How an exchange with a backend failed."""

    CONNECT = "connect_error"
    """No connection: nothing was sent."""
    STALE = "stale"
    """A reused connection ended within a second, before the first byte of a reply."""
    RESET = "reset"
    """A fresh connection ended, or broke the protocol, before the first byte of a reply."""
    UNSENT = "unsent"
    """A connection ended before the whole request was sent, and before a reply."""
    DIED = "died"
    """As ``RESET``, and the backend refuses connections now: it died, and the run with it."""
    REFUSED = "overloaded"
    """The first event of a stream said that the queue is full."""
    TRUNCATED = "truncated"
    """The reply ended early."""
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"


class Outcome(NamedTuple):
    """How one exchange with a backend ended.

    Attributes:
        backend: the backend's name.
        head: the reply's head, or None when there was none.
        body: the whole body when it was held, else None.
        response: the client's response when bytes have been sent on, else None.
        fault: what went wrong, or None.
        first_byte: seconds from the start of the exchange to the first byte of the reply's body,
            or of its head when it has none.
        seconds: duration of the exchange.
    """

    backend: str
    head: ReplyHead | None = None
    body: bytes | None = None
    response: Downstream | None = None
    fault: Fault | None = None
    first_byte: float | None = None
    seconds: float = 0.0

    @property
    def committed(self) -> bool:
        """Whether bytes of the reply may have reached the client."""
        return self.response is not None


class Sink(Protocol):
    """Where a reply goes; all methods are synchronous."""

    def plan(self, head: ReplyHead) -> Plan:
        """What to do with the reply."""

    @property
    def limit(self) -> int:
        """Most bytes to hold, for ``Plan.HOLD``."""

    def ready(self, head: ReplyHead, first: bytes) -> bool:
        """Whether ``first`` is enough of the body to begin; else more is read, up to its end.

        No bytes are never enough.
        """

    def refuses(self, head: ReplyHead, first: bytes) -> bool:
        """Whether the first bytes of a stream say that the backend did not take the request."""

    def begin(self, head: ReplyHead, first: bytes) -> Downstream:
        """Make the client's response; ``first`` are the bytes that will follow at once."""

    def trailers(self) -> Sequence[tuple[str, str]]:
        """What to say after the body, of what the response announced."""

    def observe(self, data: bytes, now: float) -> None:
        """See bytes of the body that were passed on, at monotonic time ``now``."""

    def event_gaps(self) -> Observations | None:
        """Where the seconds between two events are counted of the stream that has begun.

        None if each of them has to be seen.
        """

    def silent_ending(self) -> bytes:
        """How events that tell nothing end, of the stream that has begun, without the blank line.

        Empty if they cannot be told by their end.
        """

    def observe_events(self, size: int, recent: Sequence[bytes], last: float) -> None:
        """See events that were passed on each in a chunk of its own; else as ``observe``.

        Args:
            size: bytes of all of them, without their framing.
            recent: the chunks of the last ones that tell anything.
            last: when the last one was passed on.
        """
