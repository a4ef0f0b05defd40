from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from ollad.backends.backend import OVERLOAD_WEIGHT
from ollad.backends.snapshot import Load, State
from ollad.metrics.collectors import BackendCollector, QueueCollector
from tests.unit.builders import make_backend

if TYPE_CHECKING:
    from ollad.backends.backend import Backend


def registry_of(*backends: Backend, now: float = 0.0) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(BackendCollector(lambda: backends, lambda: now))
    return registry


def test_a_backend_shows_its_state_weight_and_load() -> None:
    backend = make_backend(weight=0.5, load=Load(running=3, waiting=2, radix_usage=0.35))
    backend.in_flight = 4
    sample = registry_of(backend).get_sample_value
    names = ("up", "weight_ratio", "requests_in_flight", "running_requests", "queued_requests")
    figures = [sample(f"ollad_backend_{name}", {"backend": "sgl-a"}) for name in names]
    assert figures == [1, 0.5, 4, 3, 2]
    assert sample("ollad_backend_radix_cache_usage_ratio", {"backend": "sgl-a"}) == 0.35


def test_what_is_not_known_has_no_sample() -> None:
    sample = registry_of(make_backend(load=Load())).get_sample_value
    names = ("radix_cache_usage_ratio", "running_requests", "queued_requests")
    assert [sample(f"ollad_backend_{name}", {"backend": "sgl-a"}) for name in names] == [None] * 3


def test_exactly_one_state_is_1() -> None:
    sample = registry_of(make_backend(state=State.STARTING)).get_sample_value
    states = {
        state: sample("ollad_backend_state", {"backend": "sgl-a", "state": state})
        for state in State
    }
    assert states == dict.fromkeys(State, 0) | {State.STARTING: 1}
    assert sample("ollad_backend_up", {"backend": "sgl-a"}) == 0


def test_a_drained_backend_is_draining_and_in_no_other_state() -> None:
    backend = make_backend()
    labels = {"backend": "sgl-a", "state": "draining"}
    assert registry_of(backend).get_sample_value("ollad_backend_state", labels) == 0
    backend.drained_at = 5.0
    sample = registry_of(backend).get_sample_value
    assert sample("ollad_backend_state", labels) == 1
    assert sample("ollad_backend_state", {**labels, "state": "healthy"}) == 0
    assert sample("ollad_backend_up", {"backend": "sgl-a"}) == 0
    assert sample("ollad_backend_weight_ratio", {"backend": "sgl-a"}) == 0


def test_overload_shows_in_the_weight() -> None:
    backend = make_backend()
    backend.overloaded_until = 10.0
    labels = {"backend": "sgl-a"}
    during = registry_of(backend, now=9.0).get_sample_value("ollad_backend_weight_ratio", labels)
    after = registry_of(backend, now=10.0).get_sample_value("ollad_backend_weight_ratio", labels)
    assert (during, after) == (OVERLOAD_WEIGHT, 1.0)


def test_an_ejected_backend_is_up_and_ejected_until_it_has_proved_itself() -> None:
    backend = make_backend()
    labels = {"backend": "sgl-a"}
    assert registry_of(backend).get_sample_value("ollad_backend_ejected", labels) == 0
    for _ in range(5):
        backend.breaker.failed(5.0, 5.0, "reset")
    sample = registry_of(backend).get_sample_value
    assert sample("ollad_backend_ejected", labels) == 1
    assert sample("ollad_backend_up", labels) == 1
    backend.breaker.succeeded(12.0, 11.0)
    assert registry_of(backend).get_sample_value("ollad_backend_ejected", labels) == 0


def test_those_who_wait_are_counted_by_model() -> None:
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: {"tiny": 3, None: 1}))
    sample = registry.get_sample_value
    assert sample("ollad_queue_requests", {"model": "tiny"}) == 3
    assert sample("ollad_queue_requests", {"model": ""}) == 1
