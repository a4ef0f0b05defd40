"""Counters and gauges for what every request counts."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from ollad.metrics.counter import Counter, Gauge

LABELS = ("family", "model")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["chat", 'a"b', "a\\b", "a\nb"]
)
CHANGES = st.lists(
    st.tuples(TEXTS, TEXTS, st.integers(0, 1 << 60) | st.floats(0, 1e300, allow_nan=False)),
    max_size=8,
)


@pytest.fixture(autouse=True)
def _without_times_of_creation() -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


def pages(registry: CollectorRegistry) -> tuple[bytes, bytes]:
    """What is shown in either format."""
    open_page = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), open_page


@pytest.mark.parametrize("name", ["ollad_requests_total", "ollad_requests"])
@given(changes=CHANGES)
def test_a_counter_shows_what_the_library_s_own_would_show(
    name: str, changes: list[tuple[str, str, float]]
) -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Counter(name, 'Help, "with"\nmore.', LABELS, own)
    library = prometheus_client.Counter(name, 'Help, "with"\nmore.', LABELS, registry=theirs)
    for first, second, amount in changes:
        mine.labels(first, second).value += amount
        library.labels(first, second).inc(amount)
    assert pages(own) == pages(theirs)


@given(changes=CHANGES)
def test_a_gauge_shows_what_the_library_s_own_would_show(
    changes: list[tuple[str, str, float]],
) -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Gauge("ollad_in_flight", "Help.", LABELS, own)
    library = prometheus_client.Gauge("ollad_in_flight", "Help.", LABELS, registry=theirs)
    for first, second, amount in changes:
        mine.labels(first, second).value -= amount
        library.labels(first, second).dec(amount)
    assert pages(own) == pages(theirs)


def test_series_that_were_asked_for_are_shown_before_they_count() -> None:
    registry = CollectorRegistry()
    Counter("ollad_x_total", "Help.", ("a",), registry).labels("b")
    assert registry.get_sample_value("ollad_x_total", {"a": "b"}) == 0.0


def test_the_same_labels_are_the_same_series() -> None:
    counter = Counter("ollad_x_total", "Help.", LABELS, CollectorRegistry())
    assert counter.labels("a", "b") is counter.labels("a", "b")
    assert counter.labels("a", "b") is not counter.labels("b", "a")


def test_a_removed_series_is_shown_no_more_and_begins_anew() -> None:
    registry = CollectorRegistry()
    counter = Counter("ollad_x_total", "Help.", ("a",), registry)
    counter.labels("b").value += 3
    counter.labels("c").value += 1
    counter.remove("b")
    counter.remove("never there")
    assert registry.get_sample_value("ollad_x_total", {"a": "b"}) is None
    assert registry.get_sample_value("ollad_x_total", {"a": "c"}) == 1.0
    counter.labels("b").value += 1
    assert registry.get_sample_value("ollad_x_total", {"a": "b"}) == 1.0


@pytest.mark.parametrize("kind", [Counter, Gauge])
def test_a_name_is_taken_once(kind: type[Counter]) -> None:
    registry = CollectorRegistry()
    kind("ollad_x", "Help.", LABELS, registry)
    with pytest.raises(ValueError, match=r"[Dd]uplicate"):
        kind("ollad_x", "Help.", LABELS, registry)
