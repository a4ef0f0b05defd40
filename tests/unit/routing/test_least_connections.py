from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.demand import UNKNOWN
from ollad.routing.least_connections import LeastConnections
from tests.unit.builders import make_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend

NOW = 1000.0


def pick(backends: Sequence[Backend], now: float = NOW, seed: int = 7) -> str:
    return LeastConnections(random.Random(seed).random).pick(backends, UNKNOWN, now).name


def fill(backends: Sequence[Backend], requests: int) -> Counter[str]:
    """Dispatch requests that never end."""
    policy = LeastConnections(random.Random(7).random)
    by_name = {backend.name: backend for backend in backends}
    counts: Counter[str] = Counter()
    for _ in range(requests):
        name = policy.pick(backends, UNKNOWN, NOW).name
        by_name[name].in_flight += 1
        counts[name] += 1
    return counts


def test_requests_fill_backends_in_proportion_to_their_weights() -> None:
    backends = [make_backend("a", weight=1.0), make_backend("b", weight=0.5)]
    counts = fill([*backends, make_backend("c", weight=0.1)], 160)
    assert counts == {"a": 100, "b": 50, "c": 10}


def test_a_light_backend_gets_its_share_only_when_it_is_due() -> None:
    light = make_backend("light", weight=0.1)
    heavy = make_backend("heavy", weight=1.0)
    assert fill([light, heavy], 9) == {"heavy": 9}


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_ties_are_spread_evenly(weight: float) -> None:
    backends = [make_backend(name, weight=weight) for name in "abcd"]
    policy = LeastConnections(random.Random(7).random)
    counts = Counter(policy.pick(backends, UNKNOWN, NOW).name for _ in range(4000))
    assert set(counts) == set("abcd")
    assert min(counts.values()) > 900


def test_the_order_of_backends_does_not_decide() -> None:
    busy, idle = make_backend("busy"), make_backend("idle")
    busy.in_flight = 1
    assert [pick([busy, idle]), pick([idle, busy])] == ["idle", "idle"]


def test_a_backend_of_no_weight_is_taken_only_when_there_is_no_other() -> None:
    weightless, busy = make_backend("weightless", weight=0.0), make_backend("busy", weight=0.01)
    busy.in_flight = 10_000
    assert pick([weightless, busy]) == "busy"
    assert pick([weightless]) == "weightless"


def test_an_overloaded_backend_gets_a_tenth_until_it_has_recovered() -> None:
    overloaded, other = make_backend("overloaded"), make_backend("other")
    overloaded.overloaded_until = NOW + 2
    other.in_flight = 8
    assert pick([overloaded, other], NOW) == "other"
    assert pick([overloaded, other], NOW + 2) == "overloaded"


def _always(value: float) -> Callable[[], float]:
    return lambda: value


@pytest.mark.parametrize("value", [0.0, 0.999999])
def test_any_luck_finds_one_of_the_best(value: float) -> None:
    backends = [make_backend(name) for name in "abc"]
    backends[0].in_flight = 1
    assert LeastConnections(_always(value)).pick(backends, UNKNOWN, NOW).name in "bc"


@given(
    loads=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 1000), st.booleans()), min_size=1, max_size=8
    ),
    seed=st.integers(0, 999),
)
def test_nobody_would_have_been_cheaper(loads: list[tuple[float, int, bool]], seed: int) -> None:
    costs = {}
    backends = []
    for number, (weight, in_flight, overloaded) in enumerate(loads):
        backend = make_backend(str(number), weight=weight)
        backend.in_flight = in_flight
        backend.overloaded_until = NOW + 1 if overloaded else 0.0
        backends.append(backend)
        shown = backend.weight(NOW)
        costs[backend.name] = (in_flight + 1) / shown if shown else float("inf")
    assert costs[pick(backends, seed=seed)] == min(costs.values())
