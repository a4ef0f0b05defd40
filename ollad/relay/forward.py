"""The relay: one request to one backend, and its reply on to the sink, byte for byte."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from ollad.relay.cut import cut
from ollad.relay.exchange import Fault
from ollad.relay.underway import Exchange
from ollad.relay.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.exchange import Outcome, Sink, UpstreamRequest
    from ollad.relay.pool import ConnectionPool, ConnectionPools
    from ollad.relay.underway import Ending
    from ollad.relay.upstream import Connection

__all__ = ["Relay"]

_DEATH_SECONDS: Final[Sequence[float]] = (0.0, 0.05, 0.2)
"""Pauses before each look whether a backend that dropped a connection has died."""


class Relay:
    """Sends requests to backends and their replies to sinks.

    Attributes:
        outbox: what whole replies are sent by.
    """

    def __init__(
        self, pools: ConnectionPools, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pools = pools
        self.outbox = pools.outbox
        self._clock = clock
        self._watch = Watch(clock)

    def pool(self, backend: Backend) -> ConnectionPool:
        """The connections to ``backend``."""
        return self._pools.pool(backend.endpoint.url, backend.endpoint.tls)

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
        awaited = _Awaited(first_byte)
        exchange = self.exchange(backend, sink, proxy, awaited, last, deadline)
        return self._run(exchange, awaited, self.pool(backend), request, proxy, deadline)

    def exchange(
        self,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,
        ending: Ending,
        last: bool,
        deadline: float | None,
    ) -> Exchange:
        """An exchange to be sent; arguments as those of ``forward``."""
        return Exchange(backend, sink, proxy, ending, self._watch, self._clock, last, deadline)

    async def _run(
        self,
        exchange: Exchange,
        awaited: _Awaited,
        pool: ConnectionPool,
        request: UpstreamRequest,
        proxy: Proxy,
        deadline: float | None,
    ) -> Outcome:
        connection = pool.take() or await self.connected(pool, proxy, deadline)
        if isinstance(connection, Fault):
            return exchange.outcome(connection)
        try:
            exchange.send(
                connection,
                pool.request_head(request),
                request.body,
                head_only=request.method == "HEAD",
            )
            fault = await awaited.end
        finally:
            exchange.close()
        outcome = exchange.outcome(fault)
        if fault is Fault.STALE:
            pool.distrust()
        if fault is not None and outcome.response is not None:
            await cut(outcome.response)
        return outcome

    async def connected(
        self, pool: ConnectionPool, proxy: Proxy, deadline: float | None
    ) -> Connection | Fault:
        """A new connection, or why there is none."""
        try:
            async with asyncio.timeout(self._connect_patience(proxy, deadline)):
                return await pool.connect()
        except TimeoutError:
            late = deadline is not None and self._clock() >= deadline
            return Fault.TOTAL_TIMEOUT if late else Fault.CONNECT_TIMEOUT
        except OSError:
            return Fault.CONNECT

    def _connect_patience(self, proxy: Proxy, deadline: float | None) -> float | None:
        """Seconds that connecting may take."""
        waits = [limit for limit in (proxy.connect_timeout, proxy.first_byte_timeout) if limit]
        if deadline is not None:
            waits.append(deadline - self._clock())
        return min(waits, default=None)

    def close(self) -> None:
        """Look after no exchange any more; to be called when none is under way."""
        self._watch.close()

    async def refused(self, backend: Backend, seconds: float) -> bool:
        """Whether ``backend`` refuses connections now.

        A process that was killed takes a moment to let go of its sockets, so it is asked more
        than once; each time it may take ``seconds``.
        """
        pool = self.pool(backend)
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


class _Awaited:
    """The end of an exchange, for who awaits it.

    Args:
        first_byte: told the time when a stream of events begins.
    """

    __slots__ = ("_first_byte", "end")

    def __init__(self, first_byte: Callable[[float], None] | None) -> None:
        self._first_byte = first_byte
        self.end: asyncio.Future[Fault | None] = asyncio.get_running_loop().create_future()

    def stream_begins(self, now: float) -> None:
        """Tell who wants to know."""
        if self._first_byte is not None:
            self._first_byte(now)

    def exchange_ended(self, fault: Fault | None) -> None:
        """Give the fault to who awaits it."""
        if not self.end.done():
            self.end.set_result(fault)

    def exchange_failed(self, error: Exception) -> None:
        """Raise the error to who awaits the end."""
        if not self.end.done():
            self.end.set_exception(error)
