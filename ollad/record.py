"""What is known about one client request, filled in as it goes.

The middleware makes it and reads it at the end: for the response headers, the access line and
the metrics. Between the two the request's own task is its only writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from ollad.auth import Key, Lease
    from ollad.sglang.annotate import Usage

__all__ = ["RECORD", "RequestRecord"]


class RequestRecord:
    """One client request.

    Attributes:
        request_id: ollad's id for it, or the client's own valid one.
        started: monotonic time of its arrival, seconds.
        client: address of the client, as far as trusted proxies tell.
        method: HTTP method.
        path: path as routed, never the query.
        peer: address of the connection's other end, which may be a trusted proxy.
        scheme: ``http`` or ``https``, as the peer spoke.
        family: endpoint family for metrics, such as ``chat``; ``other`` until routed.
        model: the model as the client spelled it, or None.
        served_model: the model id at the backend, or None.
        endpoint: name of the backend that answered, or None.
        status: HTTP status sent, 0 before.
        request_bytes: size of the request body.
        response_bytes: size of the response body sent so far.
        first_byte: seconds from arrival to the first byte of the reply, or None.
        streamed: whether the reply was a stream of events.
        attempts: upstream attempts made.
        cache_hit: ``true``, ``false`` or ``unknown``; None where it has no meaning.
        spec_decode: the same for speculative decoding.
        ignored_parameters: documented parameters that no server has.
        key: whose request it is, None where no key is wanted.
        lease: what its key holds for it, None if it costs the key nothing.
        held_bytes: bytes of its body that count as held.
        cors: what browsers are told, header names and values.
        usage: token figures of the reply, once known.
        error: why it failed, for the access line, or None.
    """

    model: str | None = None
    served_model: str | None = None
    endpoint: str | None = None
    status: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    first_byte: float | None = None
    streamed: bool = False
    attempts: int = 0
    cache_hit: str | None = None
    spec_decode: str | None = None
    ignored_parameters: tuple[str, ...] = ()
    key: Key | None = None
    lease: Lease | None = None
    held_bytes: int = 0
    cors: tuple[tuple[str, str], ...] = ()
    usage: Usage | None = None
    error: str | None = None

    # what is not known yet stays with the class, as most of it does for most of the time
    def __init__(
        self,
        request_id: str,
        started: float,
        client: str,
        method: str,
        path: str,
        peer: str = "",
        scheme: str = "http",
        family: str = "other",
    ) -> None:
        self.request_id = request_id
        self.started = started
        self.client = client
        self.method = method
        self.path = path
        self.peer = peer
        self.scheme = scheme
        self.family = family

    @property
    def tenant(self) -> str:
        """Whom conversations and stored responses belong to: the key's name, or nobody."""
        return "" if self.key is None else self.key.name


RECORD: Final = web.RequestKey("record", RequestRecord)
"""Where a request carries its record."""
