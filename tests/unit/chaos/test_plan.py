"""Plans of chaos: repeatable, complete, and never without a backend that is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.plan import make_plan
from tests.chaos.records import Trouble

if TYPE_CHECKING:
    from tests.chaos.plan import Plan

RECOVERY = 4.0


def plan(seed: int, seconds: float = 120.0, *, black_holes: bool = True) -> Plan:
    return make_plan(seed, seconds, 4, pace=1.0, recovery=RECOVERY, black_holes=black_holes)


def test_a_seed_gives_the_same_plan_each_time_and_another_seed_another() -> None:
    assert plan(3) == plan(3)
    assert plan(3) != plan(4)


@given(st.integers(0, 10_000))
def test_a_backend_is_up_at_every_moment_outside_of_the_outage(seed: int) -> None:
    made = plan(seed)
    assert made.outage is not None
    for moment in (act.at for act in made.acts):
        down = [act for act in made.acts if act.at <= moment <= act.at + act.seconds + RECOVERY]
        assert len({act.backend for act in down}) == len(down) < 4
        assert not made.outage[0] <= moment < made.outage[1] + RECOVERY
    assert all(
        act.at > made.outage[1] or act.at + act.seconds < made.outage[0] for act in made.acts
    )


@given(st.integers(0, 10_000))
def test_two_minutes_hold_every_trouble_and_good_and_bad_files(seed: int) -> None:
    made = plan(seed)
    assert {act.trouble for act in made.acts} == set(Trouble)
    assert {act.backend for act in made.acts} == {0, 1, 2, 3}
    assert {reload.good for reload in made.reloads} == {True, False}
    assert all(act.at + act.seconds < 120 for act in made.acts)


def test_a_short_plan_has_no_outage_and_ends_in_time() -> None:
    made = make_plan(1, 8.0, 4, pace=0.25, recovery=2.0, black_holes=True, least_up=2)
    assert made.outage is None
    assert len(made.acts) >= 5
    assert all(act.at + act.seconds < 8 for act in made.acts)
    for act in made.acts:
        down = [other for other in made.acts if other.at <= act.at <= other.at + other.seconds + 2]
        assert len(down) <= 2


def test_no_packets_are_dropped_where_that_cannot_be() -> None:
    troubles = [act.trouble for act in plan(5, black_holes=False).acts]
    assert Trouble.BLACK_HOLE not in troubles
    assert Trouble.KILL in troubles
