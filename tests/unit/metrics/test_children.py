from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

from ollad.metrics.children import Children


def children(*labels: str) -> tuple[Children[Counter], CollectorRegistry]:
    registry = CollectorRegistry()
    return Children(Counter("seen", "Seen.", labels, registry=registry), labels), registry


def test_a_child_is_made_once() -> None:
    seen, registry = children("family", "backend")
    assert seen["chat", "sgl-a"] is seen["chat", "sgl-a"]
    seen["chat", "sgl-a"].inc()
    labels = {"family": "chat", "backend": "sgl-a"}
    assert registry.get_sample_value("seen_total", labels) == 1


def test_forgetting_takes_every_series_of_the_value_and_no_other() -> None:
    seen, registry = children("family", "backend")
    for values in (("chat", "sgl-a"), ("generate", "sgl-a"), ("sgl-a", "sgl-b")):
        seen[values].inc()
    seen.forget("backend", "sgl-a")
    assert list(seen) == [("sgl-a", "sgl-b")]
    assert generate_latest(registry).count(b"seen_total{") == 1


def test_forgetting_by_a_label_that_is_not_there_does_nothing() -> None:
    seen, _ = children("family")
    seen["chat",].inc()
    seen.forget("backend", "chat")
    assert list(seen) == [("chat",)]
