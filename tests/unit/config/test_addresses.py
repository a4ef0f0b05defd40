from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.addresses import (
    check_header_name,
    check_header_value,
    parse_file,
    parse_host,
    parse_network,
    parse_origin,
    parse_path,
    parse_url,
)
from ollad.config.problems import InvalidValueError


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:30000",
        "https://gpu.example",
        "http://[::1]:30000",
        "http://gpu_1.lan:1/base/path",
    ],
)
def test_a_base_url_is_taken_as_written(url: str) -> None:
    assert parse_url(url) == url


def test_a_base_url_loses_its_trailing_slash() -> None:
    assert parse_url("http://gpu:1/base/") == "http://gpu:1/base"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("gpu:30000", "scheme is missing"),
        ("ftp://gpu", "neither http"),
        ("http://", "host is missing"),
        ("http://:80", "host is missing"),
        ("http://user:secret@gpu", "put them in headers"),
        ("http://@gpu", "put them in headers"),
        ("http://gpu?x=1", "no query"),
        ("http://gpu/#x", "no query"),
        ("http://gpu?", "no query"),
        ("http://gpu:", "port"),
        ("http://gpu:0", "port"),
        ("http://gpu:70000", "cannot be read"),
        ("http://gpu:x", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://g pu", "space"),
        ("http://gpü", "ASCII"),
        ("http://gpu\n", "space"),
        ("http://300.1.1.1", "IP address"),
        ("http://gpu\\x", "only the host"),
    ],
)
def test_a_url_that_is_no_base_url_is_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason) as caught:
        parse_url(url)

    assert "secret" not in caught.value.reason + caught.value.fix


def test_the_fix_of_a_url_without_scheme_hides_its_credentials() -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_url("user:secret@gpu:30000")

    assert caught.value.fix == "write 'http://***@gpu:30000'"


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "::1", "a.b-c.example"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert parse_host(host) == host


@pytest.mark.parametrize(
    "host", ["*", "gpu:80", "[::1]", "http://gpu", "a..b", "-a", "1.2.3", "a b", "x" * 64]
)
def test_a_host_with_anything_else_is_refused(host: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_host(host)


def test_a_network_keeps_its_canonical_form() -> None:
    assert parse_network("10.0.0.0/8") == "10.0.0.0/8"
    assert parse_network("::1") == "::1/128"


def test_a_network_with_host_bits_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_network("10.1.2.3/8")

    assert caught.value.fix == "write 10.0.0.0/8"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="not an IP"):
        parse_network("gpu")


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models?limit=1"])
def test_a_path_starts_with_a_slash(path: str) -> None:
    assert parse_path(path) == path


@pytest.mark.parametrize("path", ["health", "//health", "/a b", "/#x", "http://gpu/health", "/ü"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_path(path)


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key", "x_y"])
def test_an_end_to_end_header_may_be_set(name: str) -> None:
    check_header_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "X Y", "X:", "X\n", "ü", "Host", "content-length", "Connection", "Keep-Alive", "TE"),
        *("Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection", "Proxy-Authorization"),
    ],
)
def test_a_header_of_the_connection_or_no_header_at_all_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        check_header_name(name)


@pytest.mark.parametrize("value", ["", " a", "a ", "a\r\nB: c", "a\x00", "naïve", "\u2028"])
def test_a_header_value_that_could_break_the_message_is_refused(value: str) -> None:
    with pytest.raises(InvalidValueError):
        check_header_value(value)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.strip).filter(bool))
def test_visible_ascii_is_a_header_value(value: str) -> None:
    check_header_value(value)


@given(st.text())
def test_any_text_is_taken_or_refused_by_every_parser(text: str) -> None:
    for parse in (parse_url, parse_host, parse_network, parse_path):
        with contextlib.suppress(InvalidValueError):
            assert isinstance(parse(text), str)


@given(st.text())
def test_a_taken_url_is_taken_again_unchanged(text: str) -> None:
    try:
        url = parse_url(f"http://{text}")
    except InvalidValueError:
        return
    assert parse_url(url) == url


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example:443", "https://app.example"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["null", "app.example", "https://a/", "https://a/b", "ftp://a", "https://*.a", "https://u@a"],
)
def test_what_no_browser_sends_is_no_origin(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_origin(text)


@pytest.mark.parametrize("text", ["key.pem", "./key.pem", "~/key", "/a\nb", "/a ", "/a\0"])
def test_a_file_is_named_by_its_whole_path(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_file(text)
