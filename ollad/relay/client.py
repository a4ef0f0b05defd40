"""The relay over aiohttp's client."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from ollad.relay.exchange import Fault, Outcome, Plan, ReplyHead

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.exchange import Sink, UpstreamRequest

__all__ = ["Relay", "open_session"]

KEEP_ALIVE_SECONDS: Final = 3.0
"""Idle connections are closed by us first: uvicorn closes them after 5 s."""

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
        trace_configs=[_reuse_tracer()],
        max_line_size=65536,
        max_field_size=65536,
    )


def _reuse_tracer() -> aiohttp.TraceConfig:
    """Marks a request's trace context when it went out on a reused connection."""

    async def on_reuse(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.reused = True

    tracer = aiohttp.TraceConfig()
    tracer.on_connection_reuseconn.append(on_reuse)
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
        self._trace = SimpleNamespace(reused=False)

    async def run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._proxy.first_byte_timeout or None):
                upstream = await self._send()
        except TimeoutError as error:
            late = isinstance(error, aiohttp.ConnectionTimeoutError)
            return self.failed(Fault.CONNECT_TIMEOUT if late else Fault.FIRST_BYTE_TIMEOUT)
        except aiohttp.ClientConnectorError:
            return self.failed(Fault.CONNECT)
        except (aiohttp.ClientError, OSError):
            return self.failed(Fault.STALE if self._trace.reused else Fault.RESET)
        clean = False
        try:
            outcome = await self._receive(upstream)
            clean = outcome.fault is None
        finally:
            if clean:
                upstream.release()
            else:
                upstream.close()
        return outcome

    async def _send(self) -> aiohttp.ClientResponse:
        url = URL(self._backend.endpoint.url.rstrip("/") + self._request.target, encoded=True)
        return await self._session.request(
            self._request.method,
            url,
            data=self._request.body or None,
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
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in upstream.raw_headers
            ),
            content_type=upstream.headers.get("Content-Type", "").lower(),
            content_length=upstream.content_length,
        )
        if self._sink.plan(head) is Plan.HOLD:
            return await self._hold(upstream, head)
        return await self._stream(upstream, head, b"")

    async def _hold(self, upstream: aiohttp.ClientResponse, head: ReplyHead) -> Outcome:
        held = bytearray()
        while True:
            chunk = await self._read(upstream)
            if isinstance(chunk, Fault):
                return self.failed(chunk)
            if not chunk:
                return self._ended(body=bytes(held))
            held += chunk
            if len(held) > self._sink.limit:
                return await self._stream(upstream, head, bytes(held))

    async def _stream(
        self, upstream: aiohttp.ClientResponse, head: ReplyHead, chunk: bytes
    ) -> Outcome:
        if not chunk:
            first = await self._read(upstream)
            if isinstance(first, Fault):
                return self.failed(first)
            chunk = first
        if not self._last and self._sink.refuses(head, chunk):
            return self.failed(Fault.REFUSED)
        response = self._response = await self._sink.begin(head, chunk)
        while chunk:
            await response.write(chunk)
            self._sink.observe(chunk, self._clock())
            following = await self._read(upstream)
            if isinstance(following, Fault):
                await _cut(response)
                return self.failed(following)
            chunk = following
        await response.write_eof()
        return self._ended()

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
            return Fault.TRUNCATED if begun else Fault.RESET
        if not begun:
            self._first_byte = self._clock() - self._started
        return chunk

    async def give_up(self) -> Outcome:
        if self._response is not None:
            await _cut(self._response)
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


async def _cut(response: web.StreamResponse) -> None:
    """End the client's connection so that a truncated reply cannot pass for a whole one.

    What was written is flushed first; a chunked reply then lacks its last chunk, a sized one its
    last bytes, and a close-delimited one is reset (RFC 9112 §8).
    """
    request = response._req  # noqa: SLF001 - aiohttp offers no other way to reach the transport
    if request is None or request.transport is None:
        return
    transport = request.transport
    with suppress(ConnectionError):
        await request.writer.drain()
    if response.chunked or response.content_length is not None:
        transport.close()
    else:
        transport.abort()
