"""One request to one backend while it is under way, and its reply on to a sink.

An exchange lives in callbacks: once the request has been sent, nothing awaits but its end. Bytes
go from the backend's socket to the client's in the loop turn in which they arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ollad.relay.exchange import Fault, Outcome, Plan
from ollad.relay.retry import RETRIED_STATUSES
from ollad.relay.watch import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.downstream import Downstream
    from ollad.relay.exchange import ReplyHead, Sink
    from ollad.relay.upstream import Connection
    from ollad.relay.watch import Watch

__all__ = ["Ending", "Exchange"]

_STALE_SECONDS: Final = 1.0
"""A reused connection that ends later than this was not closed for being idle."""

_RUN_SECONDS: Final = 0.01
"""The same where the backend may have got the request: in less time no server runs a prompt."""

_HOLD: Final = Plan.HOLD


class Ending(Protocol):
    """Who is told how an exchange goes, and of its end once."""

    def stream_begins(self, now: float) -> None:
        """The first bytes of a stream of events have come at monotonic ``now``."""

    def exchange_ended(self, fault: Fault | None) -> None:
        """It has come to its end, a good one without ``fault``."""

    def exchange_failed(self, error: Exception) -> None:
        """The sink would not take the reply, or the client has gone."""


class Exchange:
    """One request and its reply; the ``Receiver`` of a connection.

    Args:
        backend: where the request goes.
        sink: what becomes of the reply.
        proxy: the timeouts to keep.
        ending: who is told how it goes.
        watch: tells of silence.
        clock: monotonic seconds.
        last: pass a reply on even if it refuses the request; no other backend will be asked.
        deadline: monotonic time by which it must have ended, or None.

    Attributes:
        done: whether it has ended, or nobody wants it any more.
    """

    done = False
    _connection: Connection | None = None
    _first_byte: float | None = None
    _head: ReplyHead | None = None
    _held_bytes = 0
    _paused = False
    _plan = _HOLD
    _reply: Downstream | None = None
    _whole: bytes | None = None

    # what is not known yet stays with the class, as most of it does for most of the time
    def __init__(
        self,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,
        ending: Ending,
        watch: Watch,
        clock: Callable[[], float],
        last: bool,
        deadline: float | None,
    ) -> None:
        self._backend = backend
        self._sink = sink
        self._proxy = proxy
        self._ending = ending
        self._watch = watch
        self._clock = clock
        self._last = last
        self.deadline = deadline
        self._started = self._active = clock()

    def send(self, connection: Connection, head: bytes, body: bytes, *, head_only: bool) -> None:
        """Send the request: its head, to the empty line, and its body."""
        self._connection = connection
        self._held: list[bytes] = []
        self._active = now = self._clock()
        proxy = self._proxy
        due = now + min(proxy.first_byte_timeout or NEVER, proxy.idle_timeout or NEVER)
        if self.deadline is not None and self.deadline < due:
            due = self.deadline
        self._watch.add(self, due)
        connection.send(self, head, body, head_only=head_only)

    def close(self) -> None:
        """Leave nothing behind: no connection with a reply under way, nobody who waits."""
        self.done = True
        self._watch.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._reply is not None:
            client = self._reply.connection
            client.on_pressure = client.on_relief = None

    def outcome(self, fault: Fault | None) -> Outcome:
        """How it ended; ``fault`` as told to ``exchange_ended``."""
        return Outcome(
            self._backend.name,
            self._head,
            self._whole if self._reply is None else None,
            self._reply,
            fault,
            self._first_byte,
            self._clock() - self._started,
        )

    # --- Receiver ------------------------------------------------------------------------------

    def whole_received(self, head: ReplyHead, body: bytes) -> None:
        """Take a reply that came in one piece."""
        self._connection = None
        if self._sink.plan(head) is _HOLD and len(body) <= self._sink.limit and not self.done:
            self._head = head
            self._whole = body
            self._first_byte = self._clock() - self._started
            self.done = True
            self._ending.exchange_ended(None)
            return
        self.head_received(head)
        if body:
            self.body_received(body)
        self.reply_ended()

    def head_received(self, head: ReplyHead) -> None:
        """Decide what becomes of the reply."""
        self._active = self._clock()
        self._head = head
        try:
            plan = self._plan = self._sink.plan(head)
            if plan is Plan.DROP:
                if not self._elsewhere(head):
                    self._begin(head, b"")
                self._end(None)
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)

    def events_passed(self, size: int, recent: Sequence[bytes], last: float) -> None:
        """Have a look at events that were passed on as they came."""
        self._active = last
        try:
            self._sink.observe_events(size, recent, last)
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)

    def chunks_received(self, chunks: bytes, data: bytes, last: bool) -> None:
        """Pass whole chunks on as they came, unless something is to stand in the last one."""
        reply = self._reply
        if reply is None or not reply.chunked or (last and reply.trailing):
            self.body_received(data)
            return
        now = self._active = self._clock()
        try:
            reply.pass_chunks(chunks, last)
            self._sink.observe(data, now)
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)

    def body_received(self, data: bytes) -> None:
        """Pass bytes on, or hold them until the sink can begin."""
        now = self._active = self._clock()
        reply = self._reply
        if reply is None:
            self._begin_receiving(now)
            self._hold(data)
            return
        try:
            reply.pass_on(data)
            self._sink.observe(data, now)
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)

    def _begin_receiving(self, now: float) -> None:
        if self._first_byte is None:
            self._first_byte = now - self._started
            if self._head is not None and self._head.event_stream:
                self._ending.stream_begins(now)

    def reply_ended(self) -> None:
        """The backend is done."""
        self._connection = None
        try:
            if self._reply is None and self._plan is Plan.STREAM and self._head is not None:
                self._begin_with_held(self._head)
            if self._reply is not None:
                self._reply.finish(self._sink.trailers() if self._reply.trailing else ())
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)
        self._whole = self._joined()
        if self._first_byte is None:
            self._first_byte = self._clock() - self._started
        self._end(None)

    def connection_broken(self, error: BaseException | None) -> None:  # noqa: ARG002 - all alike
        """The backend broke off."""
        connection, self._connection = self._connection, None
        if self._head is None:
            early = self._clock() - self._active <= _stale_seconds(connection)
            stale = connection is not None and connection.reused and not connection.replied
            unsent = connection is not None and connection.unsent
            lost = Fault.UNSENT if unsent else Fault.RESET
            self._end(Fault.STALE if stale and early else lost)
        elif self._reply is None and self._elsewhere(self._head):
            self._end(None)
        else:
            self._end(Fault.RESET if self._first_byte is None else Fault.TRUNCATED)

    # --- the reply's way -----------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        head = self._head
        if head is None or self.done:
            return
        self._held.append(data)
        self._held_bytes += len(data)
        try:
            if self._plan is _HOLD:
                if self._held_bytes > self._sink.limit:
                    self._begin_with_held(head)
            elif self._sink.ready(head, self._joined()):
                self._begin_with_held(head)
        except Exception as error:  # noqa: BLE001 - raised by the ending, not into the event loop
            self._fail(error)

    def _joined(self) -> bytes:
        """What is held, as one piece."""
        if len(self._held) > 1:
            self._held = [b"".join(self._held)]
        return self._held[0] if self._held else b""

    def _begin_with_held(self, head: ReplyHead) -> None:
        """Start the client's response with what is held, unless another backend shall be asked."""
        first = self._joined()
        if self._elsewhere(head):
            self._end(None)
        elif not self._last and self._sink.refuses(head, first):
            self._end(Fault.REFUSED)
        else:
            self._begin(head, first)
            self._held.clear()

    def _begin(self, head: ReplyHead, first: bytes) -> None:
        reply = self._reply = self._sink.begin(head, first)
        reply.start(first)
        if first:
            self._sink.observe(first, self._active)
        if reply.chunked and head.event_stream and self._connection is not None:
            gaps = self._sink.event_gaps()
            if gaps is not None:
                ending = self._sink.silent_ending()
                self._connection.pass_events(reply.transport, gaps, self._active, ending)
        reply.connection.on_pressure = self._pause
        if reply.congested:
            self._pause()

    def _elsewhere(self, head: ReplyHead) -> bool:
        """Whether the status alone sends the request to another backend, whatever the body."""
        return not self._last and head.status in RETRIED_STATUSES

    def _end(self, fault: Fault | None) -> None:
        if not self.done:
            self.done = True
            self._ending.exchange_ended(fault)

    def _fail(self, error: Exception) -> None:
        if not self.done:
            self.done = True
            self._ending.exchange_failed(error)

    # --- slow clients --------------------------------------------------------------------------

    def _pause(self) -> None:
        """Read no more from the backend until the client has taken what it has been sent."""
        if not self._paused and self._connection is not None:
            self._paused = True
            self._connection.pause_reading()
            if self._reply is not None:
                self._reply.connection.on_relief = self._resume

    def _resume(self) -> None:
        self._paused = False
        self._active = self._clock()
        if self._connection is not None:
            self._connection.resume_reading()

    # --- timeouts ------------------------------------------------------------------------------

    def look(self, now: float) -> float:
        """See whether the present silence, or the whole exchange, has lasted too long."""
        if self.done:
            return NEVER
        deadline = NEVER if self.deadline is None else self.deadline
        if now >= deadline:
            self._end(Fault.TOTAL_TIMEOUT)
            return NEVER
        waiting = self._first_byte is None
        first_byte, idle = self._proxy.first_byte_timeout, self._proxy.idle_timeout
        limit = first_byte if waiting else idle
        again = min(deadline, now + min(first_byte or NEVER, idle or NEVER))
        if not limit or self._paused:
            return again
        if self._connection is not None:
            self._active = max(self._active, self._connection.last_event)
        if now - self._active >= limit:
            self._end(Fault.FIRST_BYTE_TIMEOUT if waiting else Fault.IDLE_TIMEOUT)
            return NEVER
        return min(again, self._active + limit)


def _stale_seconds(connection: Connection | None) -> float:
    """How soon a reused connection has to end so that the request cannot have run."""
    undelivered = connection is not None and connection.undelivered
    return _STALE_SECONDS if undelivered else _RUN_SECONDS
