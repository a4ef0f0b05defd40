"""The headers by which a response says how it came about, as lines."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.announcement import announced_lines, announcement
from tests.unit.builders import header_pairs, make_record

if TYPE_CHECKING:
    from ollad.record import RequestRecord

WORDS = st.sampled_from([None, "true", "false", "unknown"])
RECORDS = st.builds(
    make_record,
    path=st.sampled_from(["/olla/sglang/v1/models", "/olla/", "/metrics", "/"]),
    endpoint=st.sampled_from([None, "sgl-a", "100%s"]),
    model=st.none() | st.text(max_size=20) | st.sampled_from(["50%", "%d%%", "x" * 300, "é" * 256]),
    cache_hit=WORDS,
    spec_decode=WORDS,
    ignored_parameters=st.sampled_from([(), ("max_tree_depth", "radix_cache_size")]),
    cors=st.sampled_from([(), (("Vary", "Origin"),)]),
)
ELAPSED = st.floats(0, 1e6, allow_nan=False) | st.sampled_from([0.0005, 0.0015, 0.0025])
NAMES = st.frozensets(
    st.sampled_from(["Date", "X-SGLang-Cache-Hit", "X-SGLang-Spec-Decode", "X-Olla-Model"])
)


@given(RECORDS, ELAPSED, NAMES)
def test_the_lines_say_what_is_announced_but_for_what_was_sent(
    record: RequestRecord, elapsed: float, sent: frozenset[str]
) -> None:
    for _ in range(2):  # what is remembered is no other
        pairs = header_pairs(announced_lines(record, elapsed, sent))
        if "Date" not in sent:
            name, date = pairs.pop()
            assert name == "Date"
            assert parsedate_to_datetime(date)
        assert pairs == [pair for pair in announcement(record, elapsed) if pair[0] not in sent]


def test_a_usual_response_announces_itself() -> None:
    record = make_record(
        endpoint="sgl-a", model="m", cache_hit="true", spec_decode="false", request_id="id-1"
    )
    assert header_pairs(announced_lines(record, 0.0125, frozenset({"Date"}))) == [
        ("X-Olla-Request-ID", "id-1"),
        ("x-request-id", "id-1"),
        ("X-Olla-Backend-Type", "sglang"),
        ("X-Olla-Endpoint", "sgl-a"),
        ("X-Olla-Model", "m"),
        ("X-Olla-Response-Time", "12ms"),
        ("X-SGLang-Cache-Hit", "true"),
        ("X-SGLang-Spec-Decode", "false"),
    ]


@pytest.mark.parametrize(
    ("model", "shown"),
    [("a b", "a b"), ("é%\n", "%C3%A9%%0A"), ("m" * 300, "m" * 256), ("é" * 300, "%C3%A9" * 42)],
)
def test_a_model_is_shown_in_visible_ascii_of_a_bounded_length(model: str, shown: str) -> None:
    lines = announced_lines(make_record(model=model), 0.0, ())
    assert dict(header_pairs(lines))["X-Olla-Model"].startswith(shown)
    assert len(dict(header_pairs(lines))["X-Olla-Model"]) <= 256
