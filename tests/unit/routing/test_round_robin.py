from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.demand import UNKNOWN
from ollad.routing.round_robin import RoundRobin
from tests.unit.builders import make_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.backends.backend import Backend

NOW = 1000.0
FLEET = [make_backend(name) for name in "abcd"]


def take(policy: RoundRobin, candidates: Sequence[Backend]) -> str:
    chosen = policy.pick(candidates, UNKNOWN, NOW)
    policy.begin(chosen, UNKNOWN, NOW)
    return chosen.name


@given(first=st.lists(st.sampled_from("abcd"), max_size=10))
def test_each_has_its_turn_whatever_was_before(first: list[str]) -> None:
    policy = RoundRobin()
    for name in first:
        take(policy, [backend for backend in FLEET if backend.name == name])
    rounds = ["".join(take(policy, FLEET) for _ in FLEET) for _ in range(3)]
    assert sorted(rounds[0]) == sorted("abcd")
    assert rounds == [rounds[0]] * 3


def test_the_rotation_goes_on_where_it_was_when_one_is_away() -> None:
    policy = RoundRobin()
    assert [take(policy, FLEET) for _ in range(5)] == [*"abcda"]
    without_c = [backend for backend in FLEET if backend.name != "c"]
    assert [take(policy, without_c) for _ in range(2)] == [*"bd"]
    assert [take(policy, FLEET) for _ in range(4)] == [*"cabd"]


def test_a_newcomer_has_one_turn_like_all() -> None:
    policy = RoundRobin()
    for _ in range(30):
        take(policy, FLEET[:3])
    assert [take(policy, FLEET) for _ in range(5)] == [*"dabcd"]


def test_one_that_left_and_came_again_is_a_newcomer() -> None:
    policy = RoundRobin()
    assert [take(policy, FLEET) for _ in range(2)] == [*"ab"]
    policy.forget("a")
    assert [take(policy, FLEET) for _ in range(2)] == [*"ac"]


def test_a_choice_that_was_not_carried_out_is_no_turn() -> None:
    policy = RoundRobin()
    policy.pick(FLEET, UNKNOWN, NOW)
    assert take(policy, FLEET) == "a"
