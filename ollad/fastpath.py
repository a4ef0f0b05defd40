"""The way of usual requests: from the client's bytes to a backend's in one go, without a task.

Most requests have a head that was seen before, come in one piece, are for a route that only relays,
and find a backend that has a connection to spare. Such a request is read, guarded and sent as soon
as its last byte has come, by the same functions as any other, and its reply is sent as soon as that
has come, in callbacks of the exchange. Whatever turns out to be unusual about it, before its
reply has begun, hands it over to the task of its connection, which goes on with it the ordinary
way: ``Frame.serve``, with the record and the attempt that there are already.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import HttpVersion11, hdrs

from ollad.closing import close_record, note_cut, send_held
from ollad.dispatch import served
from ollad.entrance import enter, leave
from ollad.errors import OUR_MISTAKE, GatewayError
from ollad.familiar import Familiar
from ollad.framing import HEAD_END, FamiliarHeads
from ollad.gateway import GATEWAY
from ollad.headers import new_request_id
from ollad.intake import COUNTED, JSON, complete_call, read_document
from ollad.model_choice import resolve_model
from ollad.record import RequestRecord
from ollad.relay.cut import reset
from ollad.relay.exchange import Fault, ReplyHead
from ollad.relay.retry import retry_reason
from ollad.replies import ClientSink
from ollad.serving import concluded

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from typing import Any

    from aiohttp import HttpVersion, web
    from aiohttp.http import RawRequestMessage
    from multidict import CIMultiDictProxy
    from structlog.typing import FilteringBoundLogger

    from ollad.connection import Connection
    from ollad.dispatch import Attempt
    from ollad.gateway import Gateway
    from ollad.handlers import Route
    from ollad.relay.exchange import Outcome
    from ollad.relay.pool import ConnectionPool
    from ollad.relay.underway import Exchange

__all__ = ["FastPath"]

_HEADS: Final = 512
_LONGEST_HEAD: Final = 4 * 1024
"""How many heads of requests are remembered, and bytes of the longest of them."""

_COLLECTED: Final = 16 * 1024
"""Longest body that is waited for here if it comes later than its head, as many clients send it;
such bodies do not count as held."""

_LONGEST_BODY: Final = 256 * 1024


class FastPath:
    """Serves what can be served that way.

    Args:
        app: the application that serves everything else.
        routes: those that only relay.
        logger: where access lines and unexpected errors go.
        access: whether there are access lines.
    """

    def __init__(
        self,
        app: web.Application,
        routes: Iterable[Route],
        logger: FilteringBoundLogger,
        *,
        access: bool,
    ) -> None:
        self.app = app
        self.gateway: Gateway = app[GATEWAY]
        self.logger = logger
        self.access = access
        self._heads: FamiliarHeads[Familiar] = FamiliarHeads(_HEADS, _LONGEST_HEAD)
        self._connecting: set[asyncio.Task[None]] = set()
        self._routes = {
            (method, route.path): route
            for route in routes
            if route.relaying is not None
            for method in route.methods.split()
        }

    def learn(self, message: RawRequestMessage, data: bytes, end: int) -> None:
        """Remember the head of a request, unless something about it is unusual.

        Args:
            message: the head, as aiohttp parsed it.
            data: from the beginning of the request.
            end: where its head ends.
        """
        route = self._routes.get((message.method, message.path))
        headers = message.headers
        if (
            route is None
            or route.relaying is None
            or message.version != HttpVersion11
            or message.should_close
            or hdrs.CONTENT_ENCODING in headers
            or hdrs.EXPECT in headers
            or "X-Olla-Request-ID" in headers
            or headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower() != JSON
        ):
            return
        family, relaying = route.family, route.relaying
        self._heads.learn(data, end, lambda: Familiar(message, family, relaying))

    def serve(self, connection: Connection, data: bytes) -> bool:
        """Serve the request that ``data`` begins with, or wait for the rest of it.

        Returns:
            False, if nothing has been done: it is not the way for this request.
        """
        end = data.find(HEAD_END) + len(HEAD_END)
        found = self._heads.recall(data, end)
        if found is None:
            return False
        familiar, length = found
        if length is None:
            return False
        lacking = end + length - len(data)
        if lacking > 0 and length <= _COLLECTED:
            connection.collect(data, lacking)
            return True
        if lacking or length > _LONGEST_BODY:
            return False
        gateway = self.gateway
        if gateway.draining or length > gateway.runtime.config.server.max_body_size:
            return False
        FastRequest(self, familiar, connection, data[end:]).begin()
        return True

    def connect(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what connects to a backend for a request."""
        task = asyncio.get_running_loop().create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def close(self) -> None:
        """Connect to no backend any more."""
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)


class FastRequest:
    """One request on the fast path.

    It is what the relay knows as the client, and what an exchange tells of its end.

    Args:
        fast: the path.
        familiar: its head.
        connection: that of the client.
        body: the whole of it.

    Attributes:
        refusal: why the client may not make it, as far as that depends on keys and limits.
        attempt: how it fared, if it was handed over after that.
    """

    keep_alive: Final = True
    version: Final[HttpVersion] = HttpVersion11

    refusal: GatewayError | None = None
    attempt: Attempt | None = None
    _connecting: asyncio.Task[None] | None = None
    _exchange: Exchange | None = None
    _served: tuple[float, bool] | None = None
    _sink: ClientSink | None = None

    def __init__(
        self, fast: FastPath, familiar: Familiar, connection: Connection, body: bytes
    ) -> None:
        gateway = fast.gateway
        runtime = gateway.runtime
        origin = self._origin = familiar.origin(connection.peer, runtime)
        self._fast = fast
        self._runtime = runtime
        self.familiar = familiar
        self.method = familiar.method
        self.protocol = connection
        self.transport: asyncio.Transport | None = connection.transport
        self.body = body
        self.record = RequestRecord(
            new_request_id(int(gateway.wall() * 1000), random.getrandbits(74)),
            gateway.clock(),
            origin.client,
            familiar.method,
            familiar.path,
            connection.peer,
            connection.scheme,
            familiar.family,
        )

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Its headers; ``Content-Length`` is that of the first one with this head."""
        return self.familiar.headers

    @property
    def message(self) -> RawRequestMessage:
        """Its head, as aiohttp parsed it; likewise."""
        return self.familiar.message

    def begin(self) -> None:
        """Read it and send it to a backend."""
        gateway, record, runtime = self._fast.gateway, self.record, self._runtime
        connection, familiar, body = self.protocol, self.familiar, self.body
        connection.occupant = self
        connection.stop_clock()
        gateway.traffic.enter(self)
        gateway.telemetry.request_started(record.family)
        record.request_bytes = len(body)
        relaying = familiar.relaying
        if runtime.guarded:
            try:
                enter(self.method, familiar.headers, record, gateway)
            except GatewayError as error:
                self.refusal = error
                connection.hand_over(self)
                return
        try:
            if len(body) >= COUNTED:
                gateway.bodies.take(len(body))
                record.held_bytes = len(body)
            given = read_document(body, record, runtime)
            model, spliced = resolve_model(record, familiar.headers, runtime, given.document)
            call = self._call = complete_call(
                given,
                record,
                self._origin.inbound(record),
                relaying.target,
                model,
                spliced,
                relaying.identity,
            )
            attempt = gateway.dispatcher.first_attempt(runtime, call, record)
        except Exception:  # noqa: BLE001 - the event loop is what it must not reach
            # found anew by the ordinary way, which knows how to answer it
            attempt = None
        if attempt is None:
            connection.hand_over(self)
            return
        self.attempt = attempt
        sink = self._sink = ClientSink(self, record, gateway, runtime, relaying.reading)
        proxy, backend = runtime.config.proxy, attempt.place.backend
        deadline = record.started + proxy.total_timeout if proxy.total_timeout else None
        relay = gateway.dispatcher.relay
        exchange = relay.exchange(backend, sink, proxy, self, attempt.last, deadline)
        self._exchange = exchange
        pool, head = self._origin.upstream_head(call, backend, relay)
        upstream = pool.take()
        if upstream is None:
            self._connecting = self._fast.connect(self._connect(exchange, pool, head))
        else:
            exchange.send(upstream, head, call.body, head_only=False)

    async def _connect(self, exchange: Exchange, pool: ConnectionPool, head: bytes) -> None:
        relay = self._fast.gateway.dispatcher.relay
        try:
            upstream = await relay.connected(pool, self._runtime.config.proxy, exchange.deadline)
        except Exception as error:  # noqa: BLE001 - nobody else looks at the task
            self._connecting = None
            if not exchange.done:
                self.exchange_failed(error)
            return
        self._connecting = None
        if isinstance(upstream, Fault):
            self.exchange_ended(upstream)
        elif exchange.done:
            upstream.abort()
        else:
            exchange.send(upstream, head, self._call.body, head_only=False)

    def stream_begins(self, now: float) -> None:
        """A stream of events has begun."""
        if self.attempt is not None:
            self._fast.gateway.dispatcher.first_byte(self.attempt.place)(now)

    # --- the end -------------------------------------------------------------------------------

    def exchange_ended(self, fault: Fault | None) -> None:
        """Answer the client, or have another backend asked."""
        exchange, sink, attempt = self._let_go()
        if exchange is None or sink is None or attempt is None:
            return
        outcome = exchange.outcome(fault)
        good = served(outcome)
        fast = self._fast
        if (
            not good
            and outcome.response is None
            and (fault is not None or retry_reason(outcome) is not None)
        ):
            if fault is Fault.STALE:
                fast.gateway.dispatcher.relay.pool(attempt.place.backend).distrust()
            attempt.outcome = outcome
            self.attempt = attempt
            self.protocol.hand_over(self)
            return
        try:
            keep_alive = self._conclude(sink, attempt, outcome, good)
        except ConnectionError:
            note_cut(self, fast.gateway, self.record)
            keep_alive = False
        except Exception as error:  # noqa: BLE001 - the event loop is what it must not reach
            keep_alive = self._mistake(error)
        self._close(keep_alive=keep_alive)

    def _let_go(self) -> tuple[Exchange | None, ClientSink | None, Attempt | None]:
        """What there is of an exchange; nothing that knows this request is kept by it."""
        exchange, sink, attempt = self._exchange, self._sink, self.attempt
        self._exchange = self._sink = self.attempt = None
        if exchange is not None:
            exchange.close()
        return exchange, sink, attempt

    def _conclude(self, sink: ClientSink, attempt: Attempt, outcome: Outcome, good: bool) -> bool:
        """Send what is to be sent; whether the connection can be used again."""
        fast, record, call = self._fast, self.record, self._call
        gateway, relaying = fast.gateway, self.familiar.relaying
        done = gateway.dispatcher.finished(call, attempt, outcome, good)
        if outcome.fault is not None:
            gateway.dispatcher.settle(call, done, record)
        relayed = concluded(
            gateway,
            self._runtime,
            call,
            record,
            sink,
            done,
            relaying.reading,
            relaying.members,
        )
        if good and outcome.first_byte is not None:
            self._served = outcome.first_byte, relaying.reading.cached
        if relaying.finished is not None:
            relaying.finished(fast.app, call, relayed, record)
        if relayed.downstream is None:
            body = relayed.whole or b""
            last = self.protocol.closing
            return send_held(self, relayed.head, body, gateway, record, last=last)
        return outcome.fault is None and relayed.downstream.keep_alive

    def exchange_failed(self, error: Exception) -> None:
        """End the request that broke the way of its reply."""
        self._give_up()
        if isinstance(error, ConnectionError):
            note_cut(self, self._fast.gateway, self.record)
            keep_alive = False
        else:
            keep_alive = self._mistake(error)
        self._close(keep_alive=keep_alive)

    def client_gone(self) -> None:
        """End it, as nobody waits for the answer."""
        self._give_up()
        note_cut(self, self._fast.gateway, self.record)
        self._account()

    def cancel(self) -> None:
        """End it, as the daemon will not wait any longer."""
        transport = self.transport
        if self.record.status:
            self._give_up()
            note_cut(self, self._fast.gateway, self.record)
            self._close(keep_alive=False)
        elif transport is not None and self.protocol.occupant is self:
            # else it was handed over before, and is answered as what is cut
            self._give_up()
            self.protocol.hand_over(self)

    def _give_up(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        _, sink, attempt = self._let_go()
        if sink is not None:
            sink.catch_up()
        if attempt is not None:
            self._fast.gateway.dispatcher.abandoned(
                self.record.family, attempt.place, "client_gone"
            )

    def _mistake(self, error: Exception) -> bool:
        """Answer what nobody expected, while that is possible."""
        gateway, record = self._fast.gateway, self.record
        mistake = GatewayError(OUR_MISTAKE)
        self._fast.logger.error(
            "unexpected error", request_id=record.request_id, path=record.path, exc_info=error
        )
        record.error = mistake.code
        if record.status:
            if self.transport is not None:
                reset(self.transport)
            return False
        lines = b"Content-Type: application/json; charset=utf-8\r\nServer: ollad\r\n"
        head = ReplyHead(mistake.status, b"Internal Server Error", (), "", None, lines=lines)
        try:
            return send_held(
                self,
                head,
                orjson.dumps(mistake.envelope()),
                gateway,
                record,
                last=self.protocol.closing,
            )
        except ConnectionError:
            note_cut(self, gateway, record)
            return False

    def _close(self, *, keep_alive: bool) -> None:
        self._account()
        self.protocol.vacate(keep_alive=keep_alive)

    def _account(self) -> None:
        """Give back what it held, count it and log it."""
        fast, record = self._fast, self.record
        fast.gateway.traffic.leave(self)
        if record.lease is not None or record.held_bytes:
            leave(record, fast.gateway)
        close_record(record, fast.gateway, fast.logger, access=fast.access, served=self._served)
