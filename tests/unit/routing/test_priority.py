from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from ollad.backends.snapshot import Load, Snapshot, State
from ollad.routing.demand import UNKNOWN
from ollad.routing.least_connections import LeastConnections
from ollad.routing.prefix_cache import PrefixCache
from ollad.routing.priority import Priority, Tier
from ollad.routing.settings import PrefixSettings
from tests.unit.builders import make_backend
from tests.unit.routing.builders import demand_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.backends.backend import Backend

NOW = 1000.0
TIERS = {"best-a": Tier(90), "best-b": Tier(90), "next": Tier(50), "last": Tier(10)}


def fleet() -> list[Backend]:
    return [make_backend(name) for name in ("last", "next", "best-a", "best-b")]


def policy(tiers: dict[str, Tier] = TIERS) -> Priority:
    return Priority(LeastConnections(Random(1).random), tiers.__getitem__)


def pick(chosen_by: Priority, backends: Sequence[Backend]) -> str:
    return chosen_by.pick(backends, UNKNOWN, NOW).name


def see(backend: Backend, **load: float) -> None:
    backend.snapshot = Snapshot(state=State.HEALTHY, weight=1.0, load=Load(**load))  # type: ignore[arg-type]


def test_the_highest_priority_gets_everything_while_it_has_room() -> None:
    backends = fleet()
    chooser = policy()
    for _ in range(100):
        name = pick(chooser, backends)
        assert name in ("best-a", "best-b")
        next(backend for backend in backends if backend.name == name).in_flight += 1
    assert [backend.in_flight for backend in backends] == [0, 0, 50, 50]


def test_only_when_all_of_a_tier_are_saturated_the_next_has_its_turn() -> None:
    last, next_, best_a, best_b = backends = fleet()
    chooser = policy({name: Tier(tier.priority, 2) for name, tier in TIERS.items()})
    best_a.in_flight = 2
    assert pick(chooser, backends) == "best-b"
    best_b.in_flight = 2
    assert pick(chooser, backends) == "next"
    next_.in_flight = 2
    assert pick(chooser, backends) == "last"
    best_a.in_flight = 1
    assert pick(chooser, backends) == "best-a"
    assert last.in_flight == 0


def test_if_all_are_saturated_the_inner_policy_chooses_among_all() -> None:
    backends = fleet()
    for backend in backends:
        backend.in_flight = 5
    backends[0].in_flight = 4
    assert pick(policy({name: Tier(1, 4) for name in TIERS}), backends) == "last"


def test_an_overloaded_backend_is_saturated() -> None:
    backends = fleet()
    for backend in backends[2:]:
        backend.overloaded_until = NOW + 1
    assert pick(policy(), backends) == "next"


def test_a_backend_of_no_weight_is_saturated() -> None:
    backends = [make_backend("best-a", weight=0.0), make_backend("next", weight=0.1)]
    assert pick(policy(), backends) == "next"


@pytest.mark.parametrize(("usage", "chosen"), [(0.94, "best-a"), (0.95, "next"), (None, "best-a")])
def test_pinned_memory_saturates(usage: float | None, chosen: str) -> None:
    best, next_ = make_backend("best-a"), make_backend("next")
    best.snapshot = Snapshot(state=State.HEALTHY, weight=1.0, load=Load(token_usage=usage))
    assert pick(policy(), [best, next_]) == chosen


def test_a_queue_saturates_until_as_many_have_ended_as_waited() -> None:
    best, next_ = make_backend("best-a"), make_backend("next")
    chooser = policy()
    best.in_flight = 20
    see(best, running=17, waiting=3)
    assert pick(chooser, [best, next_]) == "next"
    best.in_flight = 18
    assert pick(chooser, [best, next_]) == "next"
    best.in_flight = 17
    assert pick(chooser, [best, next_]) == "best-a"


def test_without_a_queue_more_requests_do_not_saturate() -> None:
    best, next_ = make_backend("best-a"), make_backend("next")
    chooser = policy()
    see(best, running=3, waiting=0)
    for _ in range(50):
        assert pick(chooser, [best, next_]) == "best-a"
        best.in_flight += 1


def test_the_books_are_those_of_the_inner_policy() -> None:
    inner = PrefixCache(PrefixSettings(), Random(1).random)
    chooser = Priority(inner, TIERS.__getitem__)
    best = make_backend("best-a")
    chooser.begin(best, demand_of("abc"), NOW)
    assert chooser.standings()["best-a"].index_blocks == 3
    assert chooser.standings() == inner.standings()
    chooser.forget("best-a")
    assert not inner.standings()
