"""A client's request on its way to a backend.

A named tuple, or a class with slots, as all values that each request makes anew: a frozen dataclass
takes four times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ollad.backends.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Call", "Inbound"]


class Inbound:
    """Where a request came from.

    Attributes:
        headers: names and values as received, in order.
        request_id: ollad's id for the request.
        peer: address of the connection's other end.
        scheme: ``http`` or ``https``.
        host: the Host header.
        trusted: whether the peer's X-Forwarded-* headers are believed.
    """

    __slots__ = ("headers", "host", "peer", "request_id", "scheme", "trusted")

    def __init__(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        request_id: str,
        peer: str,
        scheme: str,
        host: str,
        trusted: bool,
    ) -> None:
        self.headers = headers
        self.request_id = request_id
        self.peer = peer
        self.scheme = scheme
        self.host = host
        self.trusted = trusted


class Call(NamedTuple):
    """One exchange that ollad wants with some backend.

    Attributes:
        family: endpoint family, for metrics.
        method: HTTP method towards the backend.
        target: path and query below the backend's URL.
        body: the bytes to send.
        inbound: the client's side.
        document: the body parsed, when it is a JSON object; of texts that are long, and nobody
            reads to their end, it may have the beginnings only.
        model: id of the model that the backend must serve, or None for any.
        rid: the client's own ``rid``, which never reaches a backend.
        tenant: whom conversations and affinity belong to.
        identity: ask for a reply without content encoding, since ollad will read it.
        pinned: name of the only backend that can answer, or None.
        suits: what else a backend must be able to do, or None.
        omitted: bytes of texts that ``document`` is without.
    """

    family: str
    method: str
    target: str
    body: bytes
    inbound: Inbound
    document: Mapping[str, Any] | None = None
    model: str | None = None
    rid: str | None = None
    tenant: str = ""
    identity: bool = False
    pinned: str | None = None
    suits: Callable[[Backend], bool] | None = None
    omitted: int = 0
