"""The histogram for figures taken per event."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from ollad.metrics.histogram import Histogram

BUCKETS = (0.005, 0.25, 1, 2.5)
VALUES = st.floats(0, 5, allow_nan=False) | st.sampled_from(BUCKETS)


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES)))
def test_it_shows_what_the_library_s_own_would_show(observed: list[tuple[str, float]]) -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    mine = Histogram("h", "Help.", ("label",), buckets=BUCKETS, registry=own)
    library = prometheus_client.Histogram(
        "h", "Help.", ("label",), buckets=BUCKETS, registry=theirs
    )
    for label, value in observed:
        mine.labels(label).observe(value)
        library.labels(label).observe(value)
    assert generate_latest(own) == generate_latest(theirs)


def test_a_removed_series_begins_anew() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "Help.", ("label",), buckets=BUCKETS, registry=registry)
    histogram.labels("a").observe(1)
    histogram.remove("a")
    assert b"h_count" not in generate_latest(registry)
    histogram.labels("a").observe(1)
    assert b'h_count{label="a"} 1.0' in generate_latest(registry)
