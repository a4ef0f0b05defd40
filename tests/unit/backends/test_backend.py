from __future__ import annotations

import pytest

from ollad.backends.backend import Backend
from ollad.backends.snapshot import Engine, State
from ollad.config.schema import Endpoint
from tests.unit.builders import make_backend

ROUTE = "/batch"


def test_a_backend_that_was_never_probed_takes_nothing() -> None:
    backend = Backend(Endpoint(url="http://sgl-a.example", name="sgl-a"))
    assert not backend.routable
    assert backend.weight(0.0) == 0.0
    assert not backend.serves("tiny-llama")


@pytest.mark.parametrize("state", State)
def test_only_healthy_and_recovering_backends_are_routable(state: State) -> None:
    expected = state in (State.HEALTHY, State.RECOVERING)
    assert make_backend(state=state).routable is expected


def test_overload_leaves_a_tenth_of_the_weight_until_its_end() -> None:
    backend = make_backend(weight=0.5)
    backend.overloaded_until = 12.0
    assert backend.weight(11.9) == pytest.approx(0.05)
    assert backend.weight(12.0) == 0.5


def test_a_drained_backend_takes_nothing_and_says_by_whose_order_and_since_when() -> None:
    backend = make_backend(state=State.RECOVERING, reason="answers again", since=10.0)
    backend.drained_at = 20.0
    assert not backend.routable
    assert backend.weight(0.0) == 0.0
    assert (backend.state, backend.since) == ("draining", 20.0)
    assert backend.reason == "by an operator's order; otherwise recovering: answers again"


def test_a_backend_that_is_drained_no_longer_is_as_healthy_as_before() -> None:
    backend = make_backend()
    backend.drained_at = 20.0
    backend.drained_at = None
    assert backend.routable
    assert backend.weight(0.0) == 1.0


def test_what_is_seen_of_a_drained_backend_counts_once_it_is_drained_no_longer() -> None:
    backend = make_backend()
    backend.drained_at = 20.0
    backend.snapshot = make_backend(weight=0.5).snapshot
    assert backend.weight(0.0) == 0.0
    backend.drained_at = None
    assert backend.weight(0.0) == 0.5


def test_a_model_is_served_under_exactly_its_id() -> None:
    backend = make_backend(models=("tiny-llama", "org/model"))
    assert backend.serves("org/model")
    assert not backend.serves("org")
    assert not backend.serves("TINY-LLAMA")


@pytest.mark.parametrize(
    ("routes", "expected"), [(None, None), (frozenset(), False), (frozenset({ROUTE}), True)]
)
def test_the_route_list_says_what_is_native(
    routes: frozenset[str] | None, expected: bool | None
) -> None:
    assert make_backend(engine=Engine(native_routes=routes)).native(ROUTE) is expected


def test_a_lack_is_remembered_until_the_server_restarts() -> None:
    backend = make_backend(engine=Engine(incarnation="1"))
    backend.learn_lack(ROUTE)
    assert backend.native(ROUTE) is False
    assert backend.native("/extend") is None
    restarted = make_backend(engine=Engine(incarnation="2"))
    backend.snapshot = restarted.snapshot
    assert backend.native(ROUTE) is None
    backend.learn_lack("/extend")
    assert backend.native(ROUTE) is None
    assert backend.native("/extend") is False


def test_its_repr_shows_its_state() -> None:
    backend = make_backend("sgl-a", weight=0.625)
    backend.in_flight = 3
    assert repr(backend) == "<Backend sgl-a healthy w=0.62 in-flight=3>"
