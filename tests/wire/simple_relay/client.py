"""The relay over aiohttp's client."""

from __future__ import annotations

import asyncio
import io
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from ollad.relay.body import buffered, failing_when_lost
from ollad.relay.cut import cut
from ollad.relay.exchange import Fault, Outcome, Plan, ReplyHead
from ollad.relay.retry import RETRIED_STATUSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.exchange import Sink, UpstreamRequest

__all__ = ["Relay", "open_session"]

KEEP_ALIVE_SECONDS: Final = 3.0
"""Idle connections are closed by us first: uvicorn closes them after 5 s."""

_STALE_SECONDS: Final = 1.0
"""A reused connection that ends later than this was not closed for being idle."""

_ONE_PIECE_BYTES: Final = 64 * 1024
"""Longer request bodies are written piece by piece."""

_SKIPPED_AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def open_session() -> aiohttp.ClientSession:
    """A client session for the data plane: no limits, no cookies, no decoding of bodies."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_SKIPPED_AUTO_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None),
        trace_configs=[_connection_tracer()],
        max_line_size=65536,
        max_field_size=65536,
    )


def _connection_tracer() -> aiohttp.TraceConfig:
    """Tells a request's trace context that it has a connection, and whether that was reused."""

    async def on_created(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        context.trace_request_ctx.connected = True
        context.trace_request_ctx.reused = False

    async def on_reused(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.connected = True
        context.trace_request_ctx.reused = True

    tracer = aiohttp.TraceConfig()
    tracer.on_connection_create_end.append(on_created)
    tracer.on_connection_reuseconn.append(on_reused)
    return tracer


class Relay:
    """Sends requests to backends and their replies to sinks."""

    def __init__(
        self, session: aiohttp.ClientSession, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        self._clock = clock

    async def forward(
        self,
        request: UpstreamRequest,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,
        *,
        last: bool = True,
        deadline: float | None = None,
    ) -> Outcome:
        """Send ``request`` to ``backend`` and its reply to ``sink``.

        Args:
            request: what to send.
            backend: where to.
            sink: what becomes of the reply.
            proxy: the timeouts to keep.
            last: pass a reply on even if it refuses the request; no other backend will be asked.
            deadline: monotonic time by which the exchange must have ended, or None.

        Returns:
            The outcome; faults are part of it, not raised.

        Raises:
            asyncio.CancelledError: the client went away; the upstream connection is closed.
            ConnectionError: the client went away while it was written to; likewise.
        """
        exchange = _Exchange(self._session, proxy, self._clock, request, backend, sink, last)
        if deadline is None:
            return await exchange.run()
        timeout = asyncio.timeout(deadline - self._clock())
        try:
            async with timeout:
                return await exchange.run()
        except TimeoutError:
            if not timeout.expired():
                raise
            return await exchange.give_up()


class _Exchange:
    """One request and its reply."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        proxy: Proxy,
        clock: Callable[[], float],
        request: UpstreamRequest,
        backend: Backend,
        sink: Sink,
        last: bool,
    ) -> None:
        self._session = session
        self._proxy = proxy
        self._clock = clock
        self._request = request
        self._backend = backend
        self._sink = sink
        self._last = last
        self._started = clock()
        self._first_byte: float | None = None
        self._head: ReplyHead | None = None
        self._response: web.StreamResponse | None = None
        self._trace = SimpleNamespace(connected=False, reused=False)

    async def run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._proxy.first_byte_timeout or None):
                upstream = await self._send()
        except TimeoutError:
            waited = self._trace.connected
            return self.failed(Fault.FIRST_BYTE_TIMEOUT if waited else Fault.CONNECT_TIMEOUT)
        except aiohttp.ClientConnectorError:
            return self.failed(Fault.CONNECT)
        except (aiohttp.ClientError, OSError) as error:
            return self.failed(Fault.STALE if self._stale(error) else Fault.RESET)
        clean = False
        try:
            with failing_when_lost(upstream):
                outcome = await self._receive(upstream)
            clean = outcome.fault is None
        finally:
            if clean:
                upstream.release()
            else:
                upstream.close()
        return outcome

    def _stale(self, error: Exception) -> bool:
        """Whether a connection kept open was closed before it could take the request."""
        if not self._trace.reused or self._clock() - self._started > _STALE_SECONDS:
            return False
        if isinstance(error, aiohttp.ServerDisconnectedError):
            # what came of a head, if anything
            return isinstance(error.message, str)
        return not isinstance(error, aiohttp.ClientResponseError)

    async def _send(self) -> aiohttp.ClientResponse:
        url = URL(self._backend.endpoint.url.rstrip("/") + self._request.target, encoded=True)
        return await self._session.request(
            self._request.method,
            url,
            data=_payload(self._request.body),
            headers=self._request.headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._proxy.connect_timeout or None
            ),
            trace_request_ctx=self._trace,
        )

    async def _receive(self, upstream: aiohttp.ClientResponse) -> Outcome:
        head = self._head = ReplyHead(
            status=upstream.status,
            reason=upstream.reason or "",
            headers=tuple(
                (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
                for name, value in upstream.raw_headers
            ),
            content_type=upstream.headers.get("Content-Type", "").lower(),
            content_length=_declared_length(upstream),
        )
        match self._sink.plan(head):
            case Plan.HOLD:
                return await self._hold(upstream, head)
            case Plan.STREAM:
                return await self._stream(upstream, head, b"")
            case Plan.DROP:
                return await self._drop(head)

    async def _hold(self, upstream: aiohttp.ClientResponse, head: ReplyHead) -> Outcome:
        held = bytearray()
        while True:
            chunk = await self._read(upstream)
            if isinstance(chunk, Fault):
                return self._ended() if self._elsewhere(head) else self.failed(chunk)
            if not chunk:
                return self._ended(body=bytes(held))
            held += chunk
            if len(held) > self._sink.limit:
                return await self._stream(upstream, head, bytes(held))

    async def _drop(self, head: ReplyHead) -> Outcome:
        self._first_byte = self._clock() - self._started
        response = self._response = await self._sink.begin(head, b"")
        await response.write_eof()
        return self._ended()

    async def _stream(
        self, upstream: aiohttp.ClientResponse, head: ReplyHead, held: bytes
    ) -> Outcome:
        chunk = await self._beginning(upstream, head, held)
        if self._elsewhere(head):
            return self._ended()
        if isinstance(chunk, Fault):
            return self.failed(chunk)
        if not self._last and self._sink.refuses(head, chunk):
            return self.failed(Fault.REFUSED)
        response = self._response = await self._sink.begin(head, chunk)
        while chunk:
            await response.write(chunk)
            self._sink.observe(chunk, self._clock())
            following = await self._read(upstream)
            if isinstance(following, Fault):
                await cut(response)
                return self.failed(following)
            chunk = following
        await response.write_eof()
        return self._ended()

    def _elsewhere(self, head: ReplyHead) -> bool:
        """Whether the status alone sends the request to another backend, whatever the body."""
        return not self._last and head.status in RETRIED_STATUSES

    async def _beginning(
        self, upstream: aiohttp.ClientResponse, head: ReplyHead, held: bytes
    ) -> bytes | Fault:
        """As much of the body, after what is ``held``, as the sink must see to begin."""
        beginning = held
        while not self._sink.ready(head, beginning):
            chunk = await self._read(upstream)
            if isinstance(chunk, Fault):
                return chunk
            if not chunk:
                break
            beginning += chunk
        return beginning

    async def _read(self, upstream: aiohttp.ClientResponse) -> bytes | Fault:
        """The next bytes of the reply as they arrived, ``b""`` at its end, or what went wrong."""
        begun = self._first_byte is not None
        patience = self._proxy.idle_timeout if begun else self._proxy.first_byte_timeout
        try:
            async with asyncio.timeout(patience or None):
                chunk = await upstream.content.readany()
        except TimeoutError:
            return Fault.IDLE_TIMEOUT if begun else Fault.FIRST_BYTE_TIMEOUT
        except (aiohttp.ClientError, OSError):
            chunk = buffered(upstream.content)
            if not chunk:
                return Fault.TRUNCATED if begun else Fault.RESET
        if not begun:
            self._first_byte = self._clock() - self._started
        return chunk

    async def give_up(self) -> Outcome:
        if self._response is not None:
            await cut(self._response)
        return self.failed(Fault.TOTAL_TIMEOUT)

    def failed(self, fault: Fault) -> Outcome:
        return self._ended(fault=fault)

    def _ended(self, *, body: bytes | None = None, fault: Fault | None = None) -> Outcome:
        return Outcome(
            backend=self._backend.name,
            head=self._head,
            body=body,
            response=self._response,
            fault=fault,
            first_byte=self._first_byte,
            seconds=self._clock() - self._started,
        )


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """The body as aiohttp takes it: long ones as a file, which it writes piece by piece."""
    if len(body) > _ONE_PIECE_BYTES:
        return io.BytesIO(body)
    return body or None


def _declared_length(upstream: aiohttp.ClientResponse) -> int | None:
    """Content-Length, unless a transfer coding frames the body (RFC 9112 §6.3)."""
    return None if "Transfer-Encoding" in upstream.headers else upstream.content_length
