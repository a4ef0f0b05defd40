"""Connections to one backend, kept open between requests for a short while.

The most recently used one goes first, so that those not needed grow old and are closed: by ollad,
before the backend does it (uvicorn closes idle connections after 5 s).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from ollad.framing import FamiliarHeads
from ollad.relay.outbox import Outbox
from ollad.relay.upstream import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from ollad.config.schema import EndpointTls
    from ollad.relay.exchange import ReplyHead, UpstreamRequest
    from ollad.tls import BackendTls

__all__ = ["ConnectionPool", "ConnectionPools"]

IDLE_SECONDS: Final = 3.0
"""How long a connection may be idle."""

_SWEEP_SECONDS: Final = 0.5

_HEADS: Final = 64
_LONGEST_HEAD: Final = 2 * 1024
"""How many heads of replies are remembered of a backend, and bytes of the longest of them."""


class ConnectionPool:
    """The connections to one address.

    Args:
        url: of the backend.
        outbox: what short requests are sent by.
        tls: what connections are secured with; None for http.
    """

    def __init__(self, url: str, outbox: Outbox, tls: Callable[[], ssl.SSLContext]) -> None:
        self._outbox = outbox
        self._heads: FamiliarHeads[ReplyHead] = FamiliarHeads(_HEADS, _LONGEST_HEAD)
        self._tls = tls
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._authority = parts.netloc
        self._base = parts.path.rstrip("/").encode("utf-8", "surrogateescape")
        self._host_line = f"Host: {parts.netloc}\r\n".encode("utf-8", "surrogateescape")

    def __repr__(self) -> str:
        return f"<ConnectionPool {self._authority} open={len(self._open)} idle={len(self._idle)}>"

    def __len__(self) -> int:
        return len(self._open)

    def take(self) -> Connection | None:
        """An idle connection that is certainly clean, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.clean():
                return connection
            connection.abort()
        return None

    def distrust(self) -> None:
        """Close what is idle now: one like them turned out to have been closed by the backend."""
        while self._idle:
            self._idle.pop().abort()

    async def connect(self) -> Connection:
        """Open a new connection.

        Raises:
            OSError: the backend does not take connections (also for TLS and name resolution).
        """
        loop = asyncio.get_running_loop()
        tls = self._tls() if self._secure else None
        connection = Connection(self._heads, self._outbox, self._kept, self._open.discard)
        await loop.create_connection(lambda: connection, self._host, self._port, ssl=tls)
        if connection.open:  # it may be lost by now, which is told only once
            self._open.add(connection)
        return connection

    def request_head(self, request: UpstreamRequest) -> bytes:
        """The request line and headers of ``request``, as they go on the wire."""
        body = request.body
        length = b"Content-Length: %d\r\n" % len(body) if body or request.method != "GET" else b""
        return b"%b %b%b HTTP/1.1\r\n%b%b%b\r\n" % (
            request.method.encode(),
            self._base,
            request.target.encode("utf-8", "surrogateescape"),
            self._host_line,
            request.header_lines,
            length,
        )

    def _kept(self, connection: Connection) -> None:
        connection.idle_since = monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().abort()
        self._sweep = loop.call_later(_SWEEP_SECONDS, self._close_old) if self._idle else None

    def close(self) -> None:
        """Close every connection, those in use as well."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()


class ConnectionPools:
    """One pool for each address and way to secure it; to be used as a context manager.

    Args:
        tls: the contexts for backends.

    Attributes:
        outbox: what short requests and replies are sent by.
    """

    def __init__(self, tls: BackendTls) -> None:
        self.outbox = Outbox()
        self._pools: dict[tuple[str, EndpointTls], ConnectionPool] = {}
        self._tls = tls

    def pool(self, url: str, tls: EndpointTls) -> ConnectionPool:
        """The pool for the backend at ``url``."""
        pool = self._pools.get((url, tls))
        if pool is None:
            context = partial(self._tls.context, tls)
            pool = self._pools[url, tls] = ConnectionPool(url, self.outbox, context)
        return pool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        # connections that were aborted tell their protocols in the next turn of the loop
        await asyncio.sleep(0)
