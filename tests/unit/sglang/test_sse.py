from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang.sse import (
    BOUNDARY,
    cut_usage,
    event_data,
    first_document,
    json_object,
    next_boundary,
)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: 1", b"1"),
        (b"data:1", b"1"),
        (b"data:  1", b" 1"),
        (b"event: x\ndata: 1", b"1"),
        (b"data: 1\r\ndata: 2", b"1\n2"),
        (b"data", None),
        (b": ping", None),
        (b"", None),
    ],
)
def test_the_data_of_an_event_is_what_its_data_lines_hold(event: bytes, data: bytes | None) -> None:
    assert event_data(event) == data


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_a_blank_line_parts_events_whatever_the_line_endings(blank: bytes) -> None:
    assert BOUNDARY.split(b"a" + blank + b"b") == [b"a", b"b"]
    assert BOUNDARY.search(b"a\r\nb") is None


@given(st.lists(st.sampled_from([b"a", b"\n", b"\n\n", b"data:"]), max_size=12).map(b"".join))
def test_boundaries_are_found_the_same_where_no_return_can_be(text: bytes) -> None:
    for start in range(len(text) + 1):
        found = next_boundary(text, start, returns=False)
        assert found == next_boundary(text, start, returns=True)


def test_the_first_event_with_data_counts() -> None:
    assert first_document(b': ping\n\ndata: {"a":1}\n\ndata: {"b":1}\n\n') == {"a": 1}
    assert first_document(b'data: 5\n\ndata: {"b":1}\n\n') is None
    assert json_object(b"{") is json_object(b"[]") is None


def test_figures_are_found_in_an_event_that_lost_its_start() -> None:
    lost = b'"usage":{"prompt_tokens":1},"x":"\\"usage\\":{}","usage":{"prompt_tokens":2,"d":{}}}'
    assert cut_usage(lost, b'"usage":') == {"prompt_tokens": 2, "d": {}}
    assert cut_usage(lost, b'"other":') is None
    assert cut_usage(b'"usage":{"x":1}', b'"usage":') is None


@given(st.binary(max_size=200))
def test_garbage_is_survived(data: bytes) -> None:
    event_data(data)
    first_document(data)
    cut_usage(b'"usage":{' + data, b'"usage":')
