"""How a stream of events begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang.annotate import Usage
from ollad.sglang.events import StreamScanner, overloaded
from ollad.sglang.opening import read_opening

REPLIES = Path(__file__).parents[2] / "data" / "replies"
STREAMS = [path.read_bytes() for path in sorted(REPLIES.glob("*.sse"))]
KINDS = st.sampled_from(["openai", "generate", "responses", "messages"])
NAMES = st.sampled_from(
    ["usage", "meta_info", "error", "message", "delta", "response", "prompt_tokens", "index"]
)
VALUES = st.recursive(
    st.sampled_from([None, 1, "stop", "The request queue is full.", 503]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=4).map(
    lambda document: b"data: " + orjson.dumps(document) + b"\n\n"
)


def first_of(stream: bytes) -> bytes:
    return stream[: stream.index(b"\n\n") + 2]


@given(
    EVENTS
    | st.sampled_from(STREAMS)
    | st.sampled_from(STREAMS).map(first_of)
    | st.binary(max_size=20).map(lambda data: b"data: " + data + b"\n\n"),
    KINDS,
    st.sampled_from([16, 300, 64 * 1024]),
    st.integers(0, 3),
)
def test_an_opening_says_what_watching_says(start: bytes, kind: str, tail: int, cut: int) -> None:
    start = start[: len(start) - cut]
    scanner = StreamScanner(tail)
    scanner.feed(start)
    assert read_opening(start, kind, tail) == (overloaded(start), scanner.final_usage(kind))


@pytest.mark.parametrize(
    ("event", "turned_away", "usage"),
    [
        ({"error": {"message": "The request queue is full.", "code": 503}}, True, Usage()),
        ({"choices": [{"delta": {"content": ""}}]}, False, Usage()),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 1}}, False, Usage(3, 1)),
    ],
)
def test_a_single_event_is_an_opening(
    event: dict[str, Any], turned_away: bool, usage: Usage
) -> None:
    start = b"data: " + orjson.dumps(event) + b"\n\n"
    assert read_opening(start, "openai") == (turned_away, usage)
