"""The relay: one request to one backend, and its reply on to the sink, byte for byte.

An exchange lives in callbacks: once the request has been sent, nothing awaits but its end. Bytes
go from the backend's socket to the client's in the loop turn in which they arrive.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from ollad.relay.cut import cut
from ollad.relay.exchange import Fault, Outcome, Plan
from ollad.relay.retry import RETRIED_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.downstream import DownstreamReply
    from ollad.relay.exchange import ReplyHead, Sink, UpstreamRequest
    from ollad.relay.pool import ConnectionPool, ConnectionPools
    from ollad.relay.upstream import Connection

__all__ = ["Relay"]

_NEVER: Final = float("inf")

_DEATH_SECONDS: Final = (0.0, 0.05, 0.2)
"""Pauses before each look whether a backend that dropped a connection has died."""

_STALE_SECONDS: Final = 1.0
"""A reused connection that ends later than this was not closed for being idle."""

_RUN_SECONDS: Final = 0.01
"""The same where the backend may have got the request: in less time no server runs a prompt."""


class Relay:
    """Sends requests to backends and their replies to sinks."""

    def __init__(
        self, pools: ConnectionPools, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pools = pools
        self._clock = clock

    def forward(
        self,
        request: UpstreamRequest,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,
        *,
        last: bool = True,
        deadline: float | None = None,
        first_byte: Callable[[float], None] | None = None,
    ) -> Coroutine[Any, Any, Outcome]:
        """Send ``request`` to ``backend`` and its reply to ``sink``.

        Args:
            request: what to send.
            backend: where to.
            sink: what becomes of the reply.
            proxy: the timeouts to keep.
            last: pass a reply on even if it refuses the request; no other backend will be asked.
            deadline: monotonic time by which the exchange must have ended, or None.
            first_byte: told the time when a stream of events begins.

        Returns:
            The outcome; faults are part of it, not raised.

        Raises:
            asyncio.CancelledError: the client went away; the upstream connection is closed.
            ConnectionError: the client went away while it was written to; likewise.
            GatewayError: the sink would not take the reply.
        """
        exchange = _Exchange(
            backend,
            sink,
            proxy,
            last=last,
            deadline=deadline,
            first_byte=first_byte,
            clock=self._clock,
        )
        pool = self._pools.pool(backend.endpoint.url, backend.endpoint.tls)
        return exchange.run(pool, request)

    async def refused(self, backend: Backend, seconds: float) -> bool:
        """Whether ``backend`` refuses connections now.

        A process that was killed takes a moment to let go of its sockets, so it is asked more
        than once; each time it may take ``seconds``.
        """
        pool = self._pools.pool(backend.endpoint.url, backend.endpoint.tls)
        for pause in _DEATH_SECONDS:
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(seconds):
                    connection = await pool.connect()
            except ConnectionRefusedError:
                return True
            except OSError:  # TimeoutError is one as well
                return False
            connection.abort()
        return False


class _Exchange:
    """One request and its reply; the ``Receiver`` of a connection."""

    __slots__ = (
        "_active",
        "_backend",
        "_clock",
        "_connection",
        "_deadline",
        "_ended",
        "_first_byte",
        "_head",
        "_held",
        "_held_bytes",
        "_last",
        "_loop",
        "_on_first_byte",
        "_plan",
        "_proxy",
        "_relief",
        "_reply",
        "_sink",
        "_started",
        "_timer",
        "_whole",
    )

    def __init__(
        self,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,
        *,
        last: bool,
        deadline: float | None,
        first_byte: Callable[[float], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._sink = sink
        self._proxy = proxy
        self._last = last
        self._clock = clock
        self._started = self._active = clock()
        self._deadline = deadline
        self._on_first_byte = first_byte
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Fault | None] = self._loop.create_future()
        self._connection: Connection | None = None
        self._head: ReplyHead | None = None
        self._plan = Plan.HOLD
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._whole = False
        self._reply: DownstreamReply | None = None
        self._first_byte: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._relief: asyncio.Task[None] | None = None

    async def run(self, pool: ConnectionPool, request: UpstreamRequest) -> Outcome:
        """Carry the exchange out."""
        connection = pool.take()
        if connection is None:
            try:
                async with asyncio.timeout(self._connect_patience()):
                    connection = await pool.connect()
            except TimeoutError:
                return self._outcome(
                    Fault.TOTAL_TIMEOUT if self._expired() else Fault.CONNECT_TIMEOUT
                )
            except OSError:
                return self._outcome(Fault.CONNECT)
        try:
            self._connection = connection
            self._active = self._clock()
            self._watch()
            connection.send(
                self,
                pool.request_head(request),
                request.body,
                head_only=request.method == "HEAD",
            )
            fault = await self._ended
        finally:
            self._let_go()
            if self._relief is not None:
                self._relief.cancel()
                await asyncio.gather(self._relief, return_exceptions=True)
        if fault is Fault.STALE:
            pool.distrust()
        if fault is not None and self._reply is not None:
            await cut(self._reply)
        return self._outcome(fault)

    def _let_go(self) -> None:
        """Leave no timer behind and no connection with a reply under way."""
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _outcome(self, fault: Fault | None) -> Outcome:
        held = self._reply is None and self._whole
        return Outcome(
            self._backend.name,
            self._head,
            self._joined() if held else None,
            self._reply,
            fault,
            self._first_byte,
            self._clock() - self._started,
        )

    # --- Receiver ------------------------------------------------------------------------------

    def head_received(self, head: ReplyHead) -> None:
        """Decide what becomes of the reply."""
        self._active = self._clock()
        self._head = head
        try:
            self._plan = self._sink.plan(head)
            if self._plan is Plan.DROP:
                if not self._elsewhere(head):
                    self._begin(head, b"")
                self._end(None)
        except Exception as error:  # noqa: BLE001 - raised by ``run``, not into the event loop
            self._fail(error)

    def body_received(self, data: bytes, chunks: bytes = b"") -> None:
        """Pass bytes on, or hold them until the sink can begin."""
        now = self._active = self._clock()
        reply = self._reply
        if reply is None:
            self._begin_receiving(now)
            self._hold(data)
            return
        try:
            congested = reply.pass_on(data, chunks)
            self._sink.observe(data, now)
        except Exception as error:  # noqa: BLE001 - raised by ``run``, not into the event loop
            self._fail(error)
            return
        if congested:
            self._pause(reply)

    def _begin_receiving(self, now: float) -> None:
        if self._first_byte is None:
            self._first_byte = now - self._started
            if self._on_first_byte and self._head is not None and self._head.event_stream:
                self._on_first_byte(now)

    def reply_ended(self) -> None:
        """The backend is done."""
        self._connection = None
        try:
            if self._reply is None and self._plan is Plan.STREAM and self._head is not None:
                self._begin_with_held(self._head)
            if self._reply is not None:
                self._reply.finish(self._sink.trailers() if self._reply.trailing else ())
        except Exception as error:  # noqa: BLE001 - raised by ``run``, not into the event loop
            self._fail(error)
        self._whole = True
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
        if head is None or self._ended.done():
            return
        self._held.append(data)
        self._held_bytes += len(data)
        try:
            if self._plan is Plan.HOLD:
                if self._held_bytes > self._sink.limit:
                    self._begin_with_held(head)
            elif self._sink.ready(head, self._joined()):
                self._begin_with_held(head)
        except Exception as error:  # noqa: BLE001 - raised by ``run``, not into the event loop
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
        if reply.congested:
            self._pause(reply)

    def _elsewhere(self, head: ReplyHead) -> bool:
        """Whether the status alone sends the request to another backend, whatever the body."""
        return not self._last and head.status in RETRIED_STATUSES

    def _end(self, fault: Fault | None) -> None:
        if not self._ended.done():
            self._ended.set_result(fault)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    # --- slow clients --------------------------------------------------------------------------

    def _pause(self, reply: DownstreamReply) -> None:
        """Read no more from the backend until the client has taken what it has been sent."""
        if self._relief is None and self._connection is not None:
            self._connection.pause_reading()
            self._relief = self._loop.create_task(self._resume(reply))

    async def _resume(self, reply: DownstreamReply) -> None:
        try:
            await reply.relieved()
        except ConnectionError as error:
            self._fail(error)
            return
        self._relief = None
        self._active = self._clock()
        if self._connection is not None:
            self._connection.resume_reading()

    # --- timeouts ------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look again before the present silence, or the whole exchange, can have lasted too long.

        One timer serves an exchange: it is not moved by every byte, but finds out when it fires.
        """
        proxy = self._proxy
        soon = min(proxy.first_byte_timeout or _NEVER, proxy.idle_timeout or _NEVER)
        now = self._clock()
        if limit := self._limit:
            soon = min(soon, self._active + limit - now)
        if self._deadline is not None:
            soon = min(soon, self._deadline - now)
        if soon < _NEVER:
            self._timer = self._loop.call_later(max(0.0, soon), self._on_timer)

    @property
    def _limit(self) -> float:
        """Seconds of silence allowed now; 0: any."""
        waiting = self._first_byte is None
        return self._proxy.first_byte_timeout if waiting else self._proxy.idle_timeout

    def _on_timer(self) -> None:
        if self._expired():
            self._end(Fault.TOTAL_TIMEOUT)
        elif self._limit and self._relief is None and self._clock() - self._active >= self._limit:
            waiting = self._first_byte is None
            self._end(Fault.FIRST_BYTE_TIMEOUT if waiting else Fault.IDLE_TIMEOUT)
        else:
            self._watch()

    def _expired(self) -> bool:
        return self._deadline is not None and self._clock() >= self._deadline

    def _connect_patience(self) -> float | None:
        """Seconds that connecting may take."""
        proxy = self._proxy
        waits = [limit for limit in (proxy.connect_timeout, proxy.first_byte_timeout) if limit]
        if self._deadline is not None:
            waits.append(self._deadline - self._clock())
        return min(waits, default=None)


def _stale_seconds(connection: Connection | None) -> float:
    """How soon a reused connection has to end so that the request cannot have run."""
    undelivered = connection is not None and connection.undelivered
    return _STALE_SECONDS if undelivered else _RUN_SECONDS
