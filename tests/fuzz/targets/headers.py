"""The rules for headers, in both directions."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from ollad.headers import (
    TrustedProxies,
    client_address,
    reply_lines,
    request_lines,
    valid_request_id,
)
from tests.fuzz.choices import Choices

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_headers"]

Headers = list[tuple[str, str]]

NAMES: Final = (
    *("Authorization", "X-API-Key", "Api-Key", "Cookie", "Proxy-Authorization"),
    *("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
    *("Content-Length", "Host", "Via", "Forwarded", "X-Real-IP", "X-Forwarded-For"),
    *("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Olla-Request-ID"),
    *(
        "X-Olla-Endpoint",
        "X-Data-Parallel-Rank",
        "X-SGLExt-Foo",
        "X-Override-Foo",
        "HTTP2-Settings",
    ),
    *("Accept", "Accept-Encoding", "Content-Type", "X-Anything", "traceparent", "Set-Cookie"),
    *("Access-Control-Allow-Origin", "Alt-Svc", "X-Request-ID", "Proxy-Authenticate"),
)
VALUES: Final = (
    *("close", "keep-alive, X-Anything", "authorization", "via, host", ", ,", "chunked", "gzip"),
    *("1.1.1.1", "10.0.0.9, 1.1.1.1", "[::1]:80", "::ffff:10.0.0.9", "unknown", "1.1.1.1:99", ""),
)
NETWORKS: Final = ("10.0.0.0/8", "::1", "127.0.0.1", "fd00::/8", "1.1.1.1")
PEERS: Final = ("10.0.0.9", "127.0.0.1", "::1", "192.0.2.7", "", "unix:", "fe80::1%eth0")

NEVER_SENT: Final = frozenset(
    {
        *("api-key", "connection", "content-length", "cookie", "expect", "host", "http2-settings"),
        *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "x-api-key"),
        "x-data-parallel-rank",
    }
)
NEVER_RETURNED: Final = frozenset(
    {
        *("alt-svc", "connection", "keep-alive", "set-cookie", "set-cookie2", "te", "trailer"),
        *("transfer-encoding", "upgrade", "x-request-id"),
    }
)


def check_headers(data: bytes) -> None:
    """No list of headers makes the rules fail or lets through what must not pass."""
    choices = Choices(data)
    trusted = choices.flag()
    forward = choices.flag()
    identity = choices.flag()
    peer = choices.one_of(PEERS)
    configured = {"X-Configured": "1"} if choices.flag() else {}
    if choices.flag():
        configured["authorization"] = "Bearer backend"
    inbound = _inbound(choices)
    raw = [(_octets(name), _octets(value)) for name, value in inbound]
    lines = request_lines(
        raw,
        request_id="id-1",
        peer=peer,
        scheme="http",
        host="a.example",
        trusted=trusted,
        endpoint_headers=configured,
        forward_authorization=forward,
        identity_encoding=identity,
    )
    _judge_request(_pairs(lines), inbound, peer, configured, trusted=trusted, forward=forward)
    returned, believed = reply_lines(raw)
    _judge_reply(_pairs(returned), inbound)
    assert {name.lower() for name in believed} <= {name.lower() for name, _ in _pairs(returned)}
    _judge_addresses(inbound, peer, choices)


def _inbound(choices: Choices) -> Headers:
    headers: Headers = []
    while choices and len(headers) < 128:
        name = choices.one_of(NAMES)
        if choices.flag():
            name = name.swapcase()
        if choices.flag():
            value = choices.one_of(VALUES)
        else:
            # a parser lets none of these through, in either direction
            octets = choices.some().translate(None, b"\r\n\0").strip(b" \t")
            value = octets.decode("utf-8", "surrogateescape")
        headers.append((name, value))
    return headers


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _pairs(lines: bytes) -> Headers:
    """The header lines that go over the wire, strictly read."""
    assert not lines or lines.endswith(b"\r\n")
    pairs = []
    for line in lines.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b": ")
        assert name
        assert colon
        assert b"\n" not in line
        pairs.append((_text(name), _text(value)))
    return pairs


def _named(headers: Iterable[tuple[str, str]]) -> set[str]:
    """What ``Connection`` names, found in another way than ollad does."""
    values = ",".join(value for name, value in headers if name.lower() == "connection")
    return {" ".join(part.split()).lower() for part in values.split(",")}


def _judge_request(
    sent: Headers,
    inbound: Headers,
    peer: str,
    configured: dict[str, str],
    *,
    trusted: bool,
    forward: bool,
) -> None:
    names = [name.lower() for name, _ in sent]
    own = {name.lower() for name in configured}
    assert not NEVER_SENT & set(names)
    passed = [item for item in sent if item[0].lower() not in own]
    for name, value in passed:
        lower = name.lower()
        assert not lower.startswith(("proxy-", "x-override-", "x-sglext-"))
        assert lower != "x-olla-endpoint"
        assert lower != "x-olla-request-id" or value == "id-1"
        assert lower != "authorization" or (forward and (name, value) in inbound)
        assert trusted or lower not in ("forwarded", "x-real-ip", "x-forwarded-prefix")
    assert not (_named(inbound) - {"via", "x-forwarded-for", "x-forwarded-host"}) & {
        name.lower() for name, value in passed if (name, value) in inbound
    } - {"x-forwarded-proto", "accept-encoding", "x-olla-request-id"}
    for name in ("via", "x-olla-request-id"):
        assert names.count(name) == 1
    for name in ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"):
        assert names.count(name) <= 1
    values = {name.lower(): value for name, value in sent}
    assert values["via"].endswith("1.1 ollad")
    assert values.get("x-forwarded-for", "").endswith(peer)
    if not trusted:
        assert values.get("x-forwarded-for", "") == peer
        assert values["x-forwarded-host"] == "a.example"
        assert values["x-forwarded-proto"] == "http"
    for name, value in configured.items():
        assert [item for item in sent if item[0].lower() == name.lower()] == [(name, value)]


def _judge_reply(returned: Headers, upstream: Headers) -> None:
    names = {name.lower() for name, _ in returned}
    assert not NEVER_RETURNED & names
    assert not names & _named(upstream)
    assert not any(name.startswith(("access-control-", "proxy-", "x-olla-")) for name in names)
    assert [item for item in upstream if item in returned] == returned


def _judge_addresses(inbound: Headers, peer: str, choices: Choices) -> None:
    proxies = TrustedProxies([choices.one_of(NETWORKS)])
    hops = ",".join(value for name, value in inbound if name.lower() == "x-forwarded-for")
    client = client_address(peer, hops, proxies.__contains__)
    if peer not in proxies:
        assert client == peer
    elif client != peer:
        ipaddress.ip_address(client)
    for _, value in inbound:
        if valid_request_id(value):
            assert value.isascii()
            assert value.isprintable()
            assert not set(value) & set(' \t\r\n,;"')
