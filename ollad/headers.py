"""Which headers go on to a backend, which come back, and what is added: rules without state.

Hop-by-hop headers (RFC 9110 §7.6.1) go in neither direction, the client's credentials reach no
backend, a backend's cookies and CORS answers reach no client, and nobody but ollad and trusted
proxies speaks for ollad.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "TrustedProxies",
    "client_address",
    "new_request_id",
    "reply_lines",
    "request_lines",
    "shown_header",
    "valid_request_id",
]

_Pair = tuple[bytes, bytes]  # name and value as they stand on the wire
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_REWRITTEN: Final = frozenset(
    {b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)
_REQUEST_DROPPED: Final = _HOP_BY_HOP | {
    b"api-key",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"x-api-key",
    b"x-data-parallel-rank",
}
_REQUEST_DROPPED_PREFIXES: Final = (b"proxy-", b"x-olla-", b"x-override-", b"x-sglext-")
_FORWARDING: Final = frozenset({b"forwarded", b"x-real-ip"})
_FORWARDING_PREFIX: Final = b"x-forwarded-"
_REPLY_DROPPED: Final = _HOP_BY_HOP | {
    b"alt-svc",
    b"content-length",
    b"set-cookie",
    b"set-cookie2",
    b"x-request-id",
}
_REPLY_DROPPED_PREFIXES: Final = (b"access-control-", b"proxy-", b"x-olla-")
_BELIEVED: Final = {
    name.lower().encode(): name for name in ("Date", "X-SGLang-Cache-Hit", "X-SGLang-Spec-Decode")
}
"""Headers that ollad adds to replies unless the backend sent them itself."""

_VIA: Final = "1.1 ollad"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_UUID: Final = "%08x-%04x-7%03x-%04x-%012x"  # of version 7
_NAMES_REMEMBERED: Final = 1024
_MAPPED_PREFIX: Final = 96  # bits before the IPv4 address in ::ffff:0:0/96 (RFC 4291 §2.5.5.2)
_USUAL_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
"""Values of Connection that name no header which would be passed on otherwise."""


class _Fate(enum.Enum):
    """What becomes of a header, by its name alone."""

    PASSED = enum.auto()
    DROPPED = enum.auto()
    CONNECTION = enum.auto()
    """Dropped, and so are the headers it names (RFC 9110 §7.6.1)."""
    CREDENTIALS = enum.auto()
    """``Authorization``: passed where the endpoint is configured to get it."""
    ENCODINGS = enum.auto()
    """``Accept-Encoding``: passed unless the reply has to be read."""
    REWRITTEN = enum.auto()
    """Sent anew by ollad, with what it says where that is believed."""
    FORWARDING = enum.auto()
    """Passed from trusted proxies."""
    BELIEVED = enum.auto()
    """Passed, and not added by ollad."""


# as plain names, since each header of each request asks for them
_PASSED: Final = _Fate.PASSED
_DROPPED: Final = _Fate.DROPPED


def request_lines(
    headers: Iterable[_Pair],
    *,
    request_id: str,
    peer: str,
    scheme: str,
    host: str,
    trusted: bool,
    endpoint_headers: Mapping[str, str],
    forward_authorization: bool,
    identity_encoding: bool,
) -> bytes:
    """Make the header lines of a request to a backend.

    ``Host`` and ``Content-Length`` are left to whoever sends the request.

    Args:
        headers: the client's; what is passed on keeps its bytes, order and duplicates.
        request_id: ollad's id of the request.
        peer: address of whoever connected to ollad.
        scheme: ``http`` or ``https``, as the peer spoke to ollad.
        host: the ``Host`` it asked for.
        trusted: whether the peer is a proxy whose ``X-Forwarded-*`` are believed.
        endpoint_headers: configured for the backend; each replaces those of the same name.
        forward_authorization: whether the client's ``Authorization`` is meant for the backend.
        identity_encoding: whether the reply must come without content encoding.
    """
    lines: list[bytes] = []
    told: list[tuple[str, str]] = []
    named: set[bytes] = set()
    for header in headers:
        fate = _request_fate(header[0])
        if fate is _PASSED:
            lines.append(b"%b: %b\r\n" % header)
        elif fate is _DROPPED:
            pass
        elif fate is _Fate.CONNECTION:
            named |= _options(header[1])
        elif fate is _Fate.REWRITTEN:
            told.append((_text(header[0]).lower(), _text(header[1])))
        elif (
            (fate is _Fate.CREDENTIALS and forward_authorization)
            or (fate is _Fate.ENCODINGS and not identity_encoding)
            or (fate is _Fate.FORWARDING and trusted)
        ):
            lines.append(b"%b: %b\r\n" % header)
    configured = {name.lower() for name in endpoint_headers} if endpoint_headers else frozenset()
    if named or configured:
        gone = named | {name.encode() for name in configured}
        lines = [line for line in lines if _name_of(line) not in gone]
        told = [pair for pair in told if pair[0].encode() not in named]
    own = _own_headers(told, request_id, peer, scheme, host, trusted, identity_encoding)
    if configured:
        own = {name: value for name, value in own.items() if name.lower() not in configured}
        own.update(endpoint_headers)
    lines.append(
        "".join([f"{name}: {value}\r\n" for name, value in own.items()]).encode(
            "utf-8", "surrogateescape"
        )
    )
    return b"".join(lines)


def _own_headers(
    told: list[tuple[str, str]],
    request_id: str,
    peer: str,
    scheme: str,
    host: str,
    trusted: bool,
    identity_encoding: bool,
) -> dict[str, str]:
    """What ollad says of the request; ``told`` is what the client says of the same."""
    own = {"X-Olla-Request-ID": request_id}
    if identity_encoding:
        own["Accept-Encoding"] = "identity"
    via = _VIA
    if told:
        via = ", ".join([*(value for name, value in told if name == "via"), _VIA])
        if trusted:
            hops = [value for name, value in told if name == "x-forwarded-for"]
            peer = ", ".join(filter(None, [*hops, peer]))
            last = dict(told)
            scheme = last.get("x-forwarded-proto", scheme)
            host = last.get("x-forwarded-host", host)
    if peer:
        own["X-Forwarded-For"] = peer
    if scheme:
        own["X-Forwarded-Proto"] = scheme
    if host:
        own["X-Forwarded-Host"] = host
    own["Via"] = via
    return own


@functools.lru_cache(_NAMES_REMEMBERED)
def _request_fate(name: bytes) -> _Fate:
    """What becomes of a client's header."""
    lower = name.lower()
    if lower == b"connection":
        return _Fate.CONNECTION
    if lower == b"authorization":
        return _Fate.CREDENTIALS
    if lower == b"accept-encoding":
        return _Fate.ENCODINGS
    if lower in _REWRITTEN:
        return _Fate.REWRITTEN
    if lower in _FORWARDING or lower.startswith(_FORWARDING_PREFIX):
        return _Fate.FORWARDING
    dropped = lower in _REQUEST_DROPPED or lower.startswith(_REQUEST_DROPPED_PREFIXES)
    return _Fate.DROPPED if dropped else _Fate.PASSED


def reply_lines(headers: Iterable[_Pair]) -> tuple[bytes, frozenset[str]]:
    """The header lines of a backend's reply that go on to the client.

    ``Content-Length`` is not among them: whoever sends the body frames it. The rest keeps its
    bytes, order and duplicates.

    Returns:
        The lines, and those names among them that ollad would add by itself.
    """
    lines: list[bytes] = []
    named: set[bytes] = set()
    believed: list[str] = []
    for header in headers:
        fate = _reply_fate(header[0])
        if fate is _PASSED:
            lines.append(b"%b: %b\r\n" % header)
        elif fate is _DROPPED:
            pass
        elif fate is _Fate.CONNECTION:
            named |= _options(header[1])
        else:
            lines.append(b"%b: %b\r\n" % header)
            believed.append(_BELIEVED[header[0].lower()])
    if named:
        lines = [line for line in lines if _name_of(line) not in named]
        believed = [name for name in believed if name.lower().encode() not in named]
    return b"".join(lines), frozenset(believed)


@functools.lru_cache(_NAMES_REMEMBERED)
def _reply_fate(name: bytes) -> _Fate:
    """What becomes of a backend's header."""
    lower = name.lower()
    if lower == b"connection":
        return _Fate.CONNECTION
    if lower in _BELIEVED:
        return _Fate.BELIEVED
    dropped = lower in _REPLY_DROPPED or lower.startswith(_REPLY_DROPPED_PREFIXES)
    return _Fate.DROPPED if dropped else _Fate.PASSED


def _options(connection: bytes) -> set[bytes]:
    """Names, in lower case, that ``Connection`` says are for the next hop only."""
    if connection in _USUAL_CONNECTION:
        return set()
    return {option.strip(b" \t").lower() for option in connection.split(b",")}


def _name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def shown_header(headers: Mapping[str, str], name: str) -> str:
    """A header's value as text that can be shown; what is not UTF-8 in it is replaced."""
    value = headers.get(name, "").strip()
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def valid_request_id(value: str) -> bool:
    """Whether a client's own request id can be used: 1 to 128 of letters, digits, ``._-``."""
    return _REQUEST_ID.fullmatch(value) is not None


def new_request_id(milliseconds: int, random_bits: int) -> str:
    """Make a request id: a UUID of version 7 (RFC 9562 §5.7), which sorts by time.

    Args:
        milliseconds: Unix time.
        random_bits: 74 bits of randomness.
    """
    return _UUID % (
        milliseconds >> 16 & 0xFFFF_FFFF,
        milliseconds & 0xFFFF,
        random_bits >> 62 & 0xFFF,
        0x8000 | random_bits >> 48 & 0x3FFF,
        random_bits & 0xFFFF_FFFF_FFFF,
    )


class TrustedProxies:
    """The networks of ``server.trusted_proxies``.

    Args:
        networks: IP addresses and networks, such as ``10.0.0.0/8``. An IPv4-mapped one, such as
            ``::ffff:10.0.0.0/104``, is that of its IPv4 addresses.

    Raises:
        ValueError: one of them is neither.
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(_network(network) for network in networks)

    def __repr__(self) -> str:
        return f"<TrustedProxies {', '.join(map(str, self._networks)) or 'none'}>"

    def __contains__(self, address: str) -> bool:
        """Whether ``address`` is in one of the networks; what is no IP address is not."""
        if not self._networks:
            return False
        parsed = _address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _network(text: str) -> _Network:
    """A network, of IPv4 addresses if it is one of IPv4-mapped ones, as addresses are unmapped.

    Raises:
        ValueError: it is none.
    """
    network = ipaddress.ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX))


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
