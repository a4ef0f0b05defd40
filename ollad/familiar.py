"""Heads of requests that were seen before, and what follows from them.

See ``ollad.framing`` for how they are known again.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs

from ollad.call import Inbound
from ollad.dispatch import upstream_request
from ollad.headers import client_address

if TYPE_CHECKING:
    from aiohttp.http import RawRequestMessage

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.gateway import Runtime
    from ollad.record import RequestRecord
    from ollad.relay.forward import Relay
    from ollad.relay.pool import ConnectionPool
    from ollad.serving import Relaying

__all__ = ["Familiar"]

_MARK: Final = f"{random.SystemRandom().getrandbits(144):036x}"
"""Stands for the id of a request in header lines that all requests with the same head share.

No client can know it.
"""


_ORIGINS: Final = 16
"""Peers that are remembered of each head."""


class Familiar:
    """A head that was seen before.

    Args:
        message: the head, as aiohttp parsed it; its ``Content-Length`` is that of the first one.
        family: endpoint family of its route.
        relaying: how requests of that route are relayed.

    Attributes:
        headers: of the head, likewise.
        method: of it.
        path: of it.
    """

    def __init__(self, message: RawRequestMessage, family: str, relaying: Relaying) -> None:
        self.message = message
        self.headers = message.headers
        self.method = message.method
        self.path = message.path
        self.family = family
        self.relaying = relaying
        self._origins: dict[str, Origin] = {}

    def origin(self, peer: str, runtime: Runtime) -> Origin:
        """What follows from the head if it comes from ``peer``, by the present configuration."""
        origin = self._origins.get(peer)
        if origin is None or origin.runtime is not runtime:
            origin = Origin(self.message, peer, runtime)
            if peer not in self._origins and len(self._origins) >= _ORIGINS:
                del self._origins[next(iter(self._origins))]
            self._origins[peer] = origin
        return origin


class Origin:
    """What follows from a head, whoever sent it, and the configuration.

    Attributes:
        runtime: the configuration.
        client: address of the client, as far as trusted proxies tell.
    """

    def __init__(self, message: RawRequestMessage, peer: str, runtime: Runtime) -> None:
        self.runtime = runtime
        self.client = peer
        self._raw_headers: Any = message.raw_headers
        self._host = message.headers.get(hdrs.HOST, "")
        self._trusted = peer in runtime.trusted_proxies
        self._heads: dict[Backend, tuple[ConnectionPool, bytes, bytes]] = {}
        if self._trusted and "X-Forwarded-For" in message.headers:
            hops = ",".join(message.headers.getall("X-Forwarded-For"))
            self.client = client_address(peer, hops, runtime.trusted_proxies.__contains__)

    def inbound(self, record: RequestRecord) -> Inbound:
        """Where a request with this head came from."""
        headers = self._raw_headers
        if record.key is not None:
            headers = self.runtime.gate.without_own(headers)
        return Inbound(
            headers, record.request_id, record.peer, record.scheme, self._host, self._trusted
        )

    def upstream_head(
        self, call: Call, backend: Backend, relay: Relay
    ) -> tuple[ConnectionPool, bytes]:
        """The connections to ``backend``, and the head with which ``call`` is sent there."""
        known = self._heads.get(backend)
        if known is None:
            known = self._heads[backend] = self._prepared(call, backend, relay)
        pool, before, after = known
        request_id = call.inbound.request_id.encode()
        return pool, b"%b%b%b%d\r\n\r\n" % (before, request_id, after, len(call.body))

    def _prepared(
        self, call: Call, backend: Backend, relay: Relay
    ) -> tuple[ConnectionPool, bytes, bytes]:
        pool = relay.pool(backend)
        inbound = call.inbound
        unnamed = Inbound(
            inbound.headers, _MARK, inbound.peer, inbound.scheme, inbound.host, inbound.trusted
        )
        marked = call._replace(inbound=unnamed, body=b"")
        head = pool.request_head(upstream_request(marked, backend))
        before, _, after = head.partition(_MARK.encode())
        return pool, before, after.removesuffix(b"0\r\n\r\n")
