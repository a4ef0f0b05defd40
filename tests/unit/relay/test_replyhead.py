from __future__ import annotations

import pytest

from ollad.headers import reply_lines
from ollad.relay.replyhead import BrokenReplyError, is_chunked, reply_head, sized
from tests.unit.builders import header_pairs, raw

JSON = ("Content-Type", "application/json")


def test_a_head_says_what_its_lines_say() -> None:
    headers = raw([JSON, ("Content-Length", "12"), ("X-A", "b")])
    head = reply_head(503, b"Service Unavailable", headers)
    assert (head.status, head.reason, head.headers) == (503, b"Service Unavailable", headers)
    assert (head.content_type, head.content_length) == ("application/json", 12)
    assert not head.event_stream


def test_what_goes_on_to_the_client_is_said_with_it() -> None:
    headers = raw([JSON, ("Content-Length", "12"), ("Connection", "X-Hop"), ("X-Hop", "c")])
    head = reply_head(200, b"OK", [*headers, *raw([("X-Accel-Buffering", "no")])])
    assert header_pairs(head.lines)[0] == JSON
    assert not {"Content-Length", "Connection", "X-Hop"} & {
        name for name, _ in header_pairs(head.lines)
    }
    assert (head.lines, head.believed) == reply_lines(head.headers)


@pytest.mark.parametrize(
    ("value", "content_type", "event_stream"),
    [
        ("text/event-stream", "text/event-stream", True),
        ("Text/Event-Stream; Charset=UTF-8", "text/event-stream; charset=utf-8", True),
        ("  text/event-stream ", "text/event-stream", True),
        ("application/json", "application/json", False),
        ("x-text/event-stream", "x-text/event-stream", False),
        ("t\xe9xt", "t\xe9xt", False),
        ("", "", False),
    ],
)
@pytest.mark.parametrize("name", ["Content-Type", "content-type", "CONTENT-TYPE"])
def test_the_content_type_is_read_in_lower_case(
    name: str, value: str, content_type: str, event_stream: bool
) -> None:
    head = reply_head(200, b"OK", raw([(name, value)]))
    assert (head.content_type, head.event_stream) == (content_type, event_stream)


@pytest.mark.parametrize("name", ["Content-Length", "content-length", "CONTENT-LENGTH"])
@pytest.mark.parametrize(("value", "length"), [("0", 0), ("7", 7), ("123456789012", 123456789012)])
def test_the_length_is_read_whatever_the_case_of_its_name(
    name: str, value: str, length: int
) -> None:
    assert reply_head(200, b"OK", raw([(name, value)])).content_length == length


def test_names_as_long_as_those_are_not_taken_for_them() -> None:
    headers = raw([("X-Type-Names", "text/event-stream"), ("Content-Weight", "5")])
    head = reply_head(200, b"OK", headers)
    assert (head.content_type, head.content_length, head.event_stream) == ("", None, False)


def test_a_head_without_a_length_or_a_type_says_neither() -> None:
    head = reply_head(200, b"", [])
    assert (head.content_type, head.content_length, head.lines) == ("", None, b"")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("headers", [[], [("Content-Length", "9")]])
def test_a_status_that_has_no_body_has_no_length_but_nought(
    status: int, headers: list[tuple[str, str]]
) -> None:
    assert reply_head(status, b"", raw(headers)).content_length == 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_both_versions_of_http_are_taken(version: str) -> None:
    assert reply_head(200, b"OK", [], version).status == 200


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0", "11"])
def test_a_head_of_any_other_version_is_broken(version: str) -> None:
    with pytest.raises(BrokenReplyError):
        reply_head(200, b"OK", [], version)


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 0x7F])
def test_a_reason_with_a_control_character_is_broken(byte: int) -> None:
    with pytest.raises(BrokenReplyError):
        reply_head(200, b"O" + bytes([byte]) + b"K", [])


@pytest.mark.parametrize("reason", [b"", b"OK", b"Not\tFound", b"\xc3\xa9 \xff"])
def test_any_other_reason_is_kept(reason: bytes) -> None:
    assert reply_head(200, reason, []).reason == reason


@pytest.mark.parametrize(
    ("headers", "chunked"),
    [
        ([], False),
        ([("Content-Length", "5")], False),
        ([("X-Transfer-Encoding", "gzip")], False),
        ([("Transfer-Encoding", "chunked")], True),
        ([("transfer-encoding", "Chunked")], True),
        ([("TRANSFER-ENCODING", " chunked\t")], True),
        ([JSON, ("Transfer-Encoding", "chunked"), ("X-A", "b")], True),
    ],
)
def test_a_body_comes_in_chunks_if_its_coding_says_so(
    headers: list[tuple[str, str]], chunked: bool
) -> None:
    assert is_chunked(raw(headers)) is chunked


@pytest.mark.parametrize(
    "values",
    [
        ["gzip"],
        ["identity"],
        [""],
        ["gzip, chunked"],
        ["chunked, chunked"],
        ["chunked", "chunked"],
        ["gzip", "chunked"],
        ["xchunked"],
    ],
)
def test_any_other_coding_is_broken(values: list[str]) -> None:
    with pytest.raises(BrokenReplyError):
        is_chunked(raw([("Transfer-Encoding", value) for value in values]))


def test_a_head_of_another_length_is_the_same_but_for_that() -> None:
    head = reply_head(
        207, b"Many", raw([("Content-Type", "text/event-stream"), ("Content-Length", "5")])
    )
    other = sized(head, 17)
    assert other == head._replace(content_length=17)
    assert head.content_length == 5


def test_a_head_of_the_same_length_is_no_other() -> None:
    head = reply_head(200, b"OK", raw([("Content-Length", "5")]))
    assert sized(head, 5) is head
