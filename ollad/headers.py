"""Which headers go on to a backend, which come back, and what is added: rules without state.

Hop-by-hop headers (RFC 9110 §7.6.1) go in neither direction, the client's credentials reach no
backend, a backend's cookies and CORS answers reach no client, and nobody but ollad and trusted
proxies speaks for ollad.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "TrustedProxies",
    "client_address",
    "new_request_id",
    "reply_headers",
    "request_headers",
    "valid_request_id",
]

_Header = tuple[str, str, str]  # name, value, name in lower case
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_REWRITTEN: Final = frozenset({"via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})
_REQUEST_DROPPED: Final = (_HOP_BY_HOP | _REWRITTEN) | {
    "api-key",
    "content-length",
    "cookie",
    "expect",
    "host",
    "x-api-key",
    "x-data-parallel-rank",
}
_REQUEST_DROPPED_PREFIXES: Final = ("proxy-", "x-olla-", "x-override-", "x-sglext-")
_FORWARDING: Final = frozenset({"forwarded", "x-real-ip"})
_FORWARDING_PREFIX: Final = "x-forwarded-"
_REPLY_DROPPED: Final = _HOP_BY_HOP | {"alt-svc", "set-cookie", "set-cookie2", "x-request-id"}
_REPLY_DROPPED_PREFIXES: Final = ("access-control-", "proxy-", "x-olla-")

_VIA: Final = "1.1 ollad"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_headers(
    headers: Iterable[tuple[str, str]],
    *,
    request_id: str,
    peer: str,
    scheme: str,
    host: str,
    trusted: bool,
    endpoint_headers: Mapping[str, str],
    forward_authorization: bool,
    identity_encoding: bool,
) -> list[tuple[str, str]]:
    """Make the headers of a request to a backend.

    ``Host`` and ``Content-Length`` are left to whoever sends the request.

    Args:
        headers: the client's; what is passed on keeps its order, case and duplicates.
        request_id: ollad's id of the request.
        peer: address of whoever connected to ollad.
        scheme: ``http`` or ``https``, as the peer spoke to ollad.
        host: the ``Host`` it asked for.
        trusted: whether the peer is a proxy whose ``X-Forwarded-*`` are believed.
        endpoint_headers: configured for the backend; each replaces those of the same name.
        forward_authorization: whether the client's ``Authorization`` is meant for the backend.
        identity_encoding: whether the reply must come without content encoding.
    """
    inbound = [(name, value, name.lower()) for name, value in headers]
    configured = {name.lower() for name in endpoint_headers}
    named = _named_by_connection(inbound)
    gone = configured | named
    if not forward_authorization:
        gone.add("authorization")
    own = {"X-Olla-Request-ID": request_id}
    if identity_encoding:
        gone.add("accept-encoding")
        own["Accept-Encoding"] = "identity"
    told = _rewritten(inbound, named)
    believed = told if trusted else {}
    own["X-Forwarded-For"] = ", ".join(filter(None, [*believed.get("x-forwarded-for", ()), peer]))
    own["X-Forwarded-Proto"] = believed.get("x-forwarded-proto", [scheme])[-1]
    own["X-Forwarded-Host"] = believed.get("x-forwarded-host", [host])[-1]
    own["Via"] = ", ".join([*told.get("via", ()), _VIA])
    passed = [
        (name, value)
        for name, value, lower in inbound
        if lower not in gone
        and lower not in _REQUEST_DROPPED
        and not lower.startswith(_REQUEST_DROPPED_PREFIXES)
        and (trusted or not (lower in _FORWARDING or lower.startswith(_FORWARDING_PREFIX)))
    ]
    passed += (item for item in own.items() if item[1] and item[0].lower() not in configured)
    passed += endpoint_headers.items()
    return passed


def _rewritten(inbound: Iterable[_Header], named: set[str]) -> dict[str, list[str]]:
    """Values of the headers that ollad sends anew, by name in lower case."""
    values: dict[str, list[str]] = {}
    for _, value, lower in inbound:
        if lower in _REWRITTEN and lower not in named:
            values.setdefault(lower, []).append(value)
    return values


def reply_headers(upstream: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of a backend's reply that go on to the client.

    ``Content-Length`` is among them: whoever changes the body has to take care of it. Order,
    case and duplicates stay.
    """
    headers = [(name, value, name.lower()) for name, value in upstream]
    named = _named_by_connection(headers)
    return [
        (name, value)
        for name, value, lower in headers
        if lower not in _REPLY_DROPPED
        and lower not in named
        and not lower.startswith(_REPLY_DROPPED_PREFIXES)
    ]


def _named_by_connection(headers: Iterable[_Header]) -> set[str]:
    """Names, in lower case, that ``Connection`` says are for the next hop only."""
    return {
        option.strip().lower()
        for _, value, lower in headers
        if lower == "connection"
        for option in value.split(",")
    }


def valid_request_id(value: str) -> bool:
    """Whether a client's own request id can be used: 1 to 128 of letters, digits, ``._-``."""
    return _REQUEST_ID.fullmatch(value) is not None


def new_request_id(milliseconds: int, random_bits: int) -> str:
    """Make a request id: a UUID of version 7 (RFC 9562 §5.7), which sorts by time.

    Args:
        milliseconds: Unix time.
        random_bits: 74 bits of randomness.
    """
    time = milliseconds & ((1 << 48) - 1)
    high, low = (random_bits >> 62) & 0xFFF, random_bits & ((1 << 62) - 1)
    digits = f"{time << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class TrustedProxies:
    """The networks of ``server.trusted_proxies``.

    Args:
        networks: IP addresses and networks, such as ``10.0.0.0/8``.

    Raises:
        ValueError: one of them is neither.
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)

    def __repr__(self) -> str:
        return f"<TrustedProxies {', '.join(map(str, self._networks)) or 'none'}>"

    def __contains__(self, address: str) -> bool:
        """Whether ``address`` is in one of the networks; what is no IP address is not."""
        if not self._networks:
            return False
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def client_address(peer: str, forwarded_for: str | None, trusted: Callable[[str], bool]) -> str:
    """The client's address: the right-most hop that is no trusted proxy.

    Args:
        peer: address of whoever connected to ollad.
        forwarded_for: all of ``X-Forwarded-For``, or None.
        trusted: whether an address is that of a trusted proxy.

    Returns:
        ``peer`` unless it is trusted; if all hops are trusted, the left-most. A hop that is no
        IP address ends the walk: nobody vouches for what stands before it.
    """
    client = peer
    hops = (forwarded_for or "").split(",")
    while trusted(client) and hops:
        address = _address(hops.pop())
        if address is None:
            break
        client = str(address)
    return client


def _address(text: str) -> _Address | None:
    """An IP address as it stands in a header, with or without a port; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket that listens on both families shows IPv4 peers as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address
