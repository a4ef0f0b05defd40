from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.headers import (
    TrustedProxies,
    client_address,
    new_request_id,
    reply_lines,
    request_lines,
    valid_request_id,
)
from tests.unit.builders import header_pairs, raw

OWN = [
    ("X-Olla-Request-ID", "id-1"),
    ("X-Forwarded-For", "192.0.2.7"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "olla.example:40114"),
    ("Via", "1.1 ollad"),
]


def sent(headers: list[tuple[bytes, bytes]], **changes: Any) -> bytes:
    """The lines sent to a backend that come of a client's headers."""
    arguments: dict[str, Any] = {
        "request_id": "id-1",
        "peer": "192.0.2.7",
        "scheme": "http",
        "host": "olla.example:40114",
        "trusted": False,
        "endpoint_headers": {},
        "forward_authorization": False,
        "identity_encoding": False,
    }
    return request_lines(headers, **arguments | changes)


def made(*inbound: tuple[str, str], **changes: Any) -> list[tuple[str, str]]:
    return header_pairs(sent(raw(inbound), **changes))


def returned(*upstream: tuple[str, str]) -> list[tuple[str, str]]:
    """What goes on to the client of a reply's headers."""
    lines, _ = reply_lines(raw(upstream))
    return header_pairs(lines)


def passed(*inbound: tuple[str, str], **changes: Any) -> list[tuple[str, str]]:
    """What is sent of ``inbound``, without what ollad adds to every request."""
    return [header for header in made(*inbound, **changes) if header not in OWN]


def test_every_request_is_told_who_asked_and_through_whom() -> None:
    assert made() == OWN


HEADER = st.tuples(
    st.text("abcXYZ019-_!#", min_size=1, max_size=12).map("X-".__add__),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=20),
)


@given(st.lists(HEADER, max_size=6))
def test_end_to_end_headers_keep_their_bytes(headers: list[tuple[str, str]]) -> None:
    passed_on = sent(raw(headers), peer="", scheme="", host="")
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in raw(headers))
    assert passed_on == lines + b"X-Olla-Request-ID: id-1\r\nVia: 1.1 ollad\r\n"
    assert reply_lines(raw(headers)) == (lines, frozenset())


@given(st.binary(max_size=20))
def test_what_a_trusted_proxy_says_keeps_its_bytes(said: bytes) -> None:
    said = said.translate(None, b"\r\n\0")
    headers = [(b"X-Forwarded-Host", said), (b"Via", said)]
    lines = sent(headers, host="", trusted=True).split(b"\r\n")
    assert b"Via: " + said + b", 1.1 ollad" in lines
    assert not said or b"X-Forwarded-Host: " + said in lines


def test_ollad_is_told_which_of_its_own_headers_a_reply_has() -> None:
    reply = raw([("dAtE", "x"), ("x-sglang-cache-hit", "true"), ("Server", "uvicorn")])
    assert reply_lines(reply)[1] == {"Date", "X-SGLang-Cache-Hit"}
    hidden = raw([("Connection", "X-SGLang-Cache-Hit, close"), ("X-SGLang-Cache-Hit", "true")])
    assert reply_lines(hidden) == (b"", frozenset())


def test_end_to_end_headers_pass_in_order_with_case_and_duplicates() -> None:
    inbound = [
        ("content-type", "application/json"),
        ("X-Unknown", "1"),
        ("accept", "a"),
        ("x-UNKNOWN", "2"),
        ("Accept-Encoding", "gzip"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-smg-routing-key", "k"),
        ("Origin", "https://site.example"),
    ]
    assert made(*inbound) == inbound + OWN


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade"),
        *("Proxy-Connection", "Proxy-Authorization", "HTTP2-Settings", "Host", "Content-Length"),
        *("Expect", "Authorization", "X-API-Key", "api-key", "Cookie", "X-Olla-Request-ID"),
        *("X-Olla-Model", "x-olla-anything", "x-sglext-ids-framed", "X-Override-Rid"),
        *("X-Data-Parallel-Rank", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port"),
        *("Forwarded", "X-Real-IP"),
    ],
)
def test_what_is_not_for_the_backend_is_dropped(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        assert made((spelling, "x")) == OWN


def test_headers_named_by_connection_stay_on_their_hop() -> None:
    inbound = [
        ("Connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("connection", "X-Other"),
        ("X-Other", "2"),
        ("X-Kept", "3"),
    ]
    assert passed(*inbound) == [("X-Kept", "3")]
    reply = [("Connection", "X-Hop"), ("X-Hop", "1"), ("X-Kept", "3")]
    assert returned(*reply) == [("X-Kept", "3")]


def test_connection_cannot_take_away_what_ollad_adds() -> None:
    inbound = [("Connection", "X-Forwarded-For, X-Olla-Request-ID, Via, Accept-Encoding")]
    assert made(*inbound, identity_encoding=True) == [
        OWN[0],
        ("Accept-Encoding", "identity"),
        *OWN[1:],
    ]


def test_a_trusted_proxys_word_is_kept_and_its_address_appended() -> None:
    inbound = [
        ("X-Forwarded-For", "198.51.100.1, 10.0.0.3"),
        ("x-forwarded-for", "10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "llm.example"),
        ("X-Forwarded-Port", "443"),
        ("Forwarded", "for=198.51.100.1"),
        ("X-Real-IP", "198.51.100.1"),
    ]
    assert made(*inbound, trusted=True) == [
        ("X-Forwarded-Port", "443"),
        ("Forwarded", "for=198.51.100.1"),
        ("X-Real-IP", "198.51.100.1"),
        ("X-Olla-Request-ID", "id-1"),
        ("X-Forwarded-For", "198.51.100.1, 10.0.0.3, 10.0.0.2, 192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "llm.example"),
        ("Via", "1.1 ollad"),
    ]


def test_via_is_appended_to_earlier_proxies() -> None:
    inbound = [("Via", "1.0 fred"), ("via", "1.1 p.example")]
    assert ("Via", "1.0 fred, 1.1 p.example, 1.1 ollad") in made(*inbound)


def test_what_is_not_known_is_not_sent() -> None:
    names = [name for name, _ in made(peer="", host="")]
    assert names == ["X-Olla-Request-ID", "X-Forwarded-Proto", "Via"]


def test_an_endpoints_headers_replace_the_clients_and_ollads() -> None:
    sent = made(
        ("x-team", "client"),
        ("X-TEAM", "again"),
        ("Authorization", "Bearer client"),
        endpoint_headers={"X-Team": "ours", "Authorization": "Bearer backend", "via": "none"},
        forward_authorization=True,
    )
    assert sent == [
        *OWN[:-1],
        ("X-Team", "ours"),
        ("Authorization", "Bearer backend"),
        ("via", "none"),
    ]


def test_the_clients_authorization_goes_only_where_it_is_meant_to() -> None:
    inbound = [("authorization", "Bearer client"), ("x-api-key", "k"), ("Cookie", "c")]
    assert passed(*inbound) == []
    assert passed(*inbound, forward_authorization=True) == [("authorization", "Bearer client")]


def test_replies_that_are_read_are_asked_for_without_encoding() -> None:
    sent = passed(("Accept-Encoding", "gzip, br"), identity_encoding=True)
    assert sent == [("Accept-Encoding", "identity")]


def test_a_replys_end_to_end_headers_pass_in_order_with_case_and_duplicates() -> None:
    upstream = [
        ("date", "Sun, 22 Nov 2026 12:41:36 GMT"),
        ("server", "uvicorn"),
        ("content-type", "application/json"),
        ("vary", "Origin"),
        ("Vary", "Accept"),
        ("X-SGLang-Cache-Hit", "true"),
        ("Retry-After", "1"),
        ("WWW-Authenticate", "Bearer"),
    ]
    assert returned(*upstream) == upstream


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "TE"),
        *("Proxy-Authenticate", "X-Olla-Endpoint", "x-request-id", "Set-Cookie", "Alt-Svc"),
        *("Access-Control-Allow-Origin", "access-control-allow-credentials", "Content-Length"),
    ],
)
def test_what_is_not_for_the_client_is_dropped(name: str) -> None:
    assert returned((name, "x"), (name.upper(), "y")) == []


@pytest.mark.parametrize("value", ["a", "A.b_c-9", "x" * 128])
def test_a_clients_own_id_of_harmless_characters_is_valid(value: str) -> None:
    assert valid_request_id(value)


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\n", "a/b", "é", 'a"', "a\x00"])
def test_any_other_id_is_not(value: str) -> None:
    assert not valid_request_id(value)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1))
def test_a_new_id_is_a_version_7_uuid_of_its_time(milliseconds: int, bits: int) -> None:
    made_id = new_request_id(milliseconds, bits)
    uuid = UUID(made_id)
    assert valid_request_id(made_id)
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == milliseconds
    assert ((uuid.int >> 64 & 0xFFF) << 62 | uuid.int & (2**62 - 1)) == bits


def test_the_example_of_the_rfc_is_made() -> None:
    # RFC 9562 appendix A.6
    assert (
        new_request_id(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F)
        == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    )


PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::5", True),
        ("::ffff:10.1.2.3", True),
        ("fe80::1%eth0", False),
        ("", False),
        ("unix:", False),
    ],
)
def test_trust_is_a_matter_of_networks(address: str, expected: bool) -> None:
    assert (address in PROXIES) is expected
    assert address not in TrustedProxies([])


@pytest.mark.parametrize(
    ("network", "address", "expected"),
    [
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.77/120", "192.0.2.1", True),
        ("::ffff:0:0/96", "198.51.100.1", True),
        ("::ffff:0:0/96", "2001:db8::1", False),
        ("::ffff:0:0/80", "198.51.100.1", False),
        ("::ffff:0:0/80", "::1", True),
        ("::10.0.0.0/104", "10.1.2.3", False),
    ],
)
def test_a_network_of_mapped_addresses_is_that_of_ipv4(
    network: str, address: str, expected: bool
) -> None:
    assert (address in TrustedProxies([network])) is expected


def test_its_repr_names_the_networks() -> None:
    assert repr(TrustedProxies([])) == "<TrustedProxies none>"
    assert repr(TrustedProxies(["10.0.0.1/8"])) == "<TrustedProxies 10.0.0.0/8>"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.9", "1.2.3.4", "198.51.100.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.2.3.4, junk, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:db9::1]:443", "2001:db9::1"),
        ("10.0.0.1", "2001:db9::1", "2001:db9::1"),
        ("", "1.2.3.4", ""),
    ],
)
def test_the_client_is_the_rightmost_hop_nobody_trusts(
    peer: str, forwarded: str | None, expected: str
) -> None:
    assert client_address(peer, forwarded, PROXIES.__contains__) == expected
