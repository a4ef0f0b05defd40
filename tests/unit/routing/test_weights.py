from __future__ import annotations

import pytest

from ollad.backends.snapshot import State
from ollad.routing.weights import headroom, weight


def of(
    priority: int = 100,
    highest: int = 100,
    usage: float | None = 0.0,
    state: State = State.HEALTHY,
    recovering: float = 0.0,
    ramp: float = 20.0,
) -> float:
    return weight(priority, highest, usage, state, seconds_recovering=recovering, ramp=ramp)


def test_a_healthy_idle_backend_weighs_its_share_of_the_highest_priority() -> None:
    assert of(priority=90) == pytest.approx(0.9)
    assert of() == 1.0


def test_usage_up_to_85_percent_costs_nothing() -> None:
    assert of(usage=0.85) == 1.0


def test_usage_beyond_85_percent_takes_weight_away() -> None:
    assert of(usage=0.95) == pytest.approx(1 / 1.4)
    assert of(usage=1.0) == pytest.approx(0.625)


def test_unknown_usage_counts_as_room() -> None:
    assert headroom(None) == 1.0


@pytest.mark.parametrize("state", [State.UNKNOWN, State.STARTING, State.DOWN])
def test_a_backend_that_takes_no_requests_weighs_nothing(state: State) -> None:
    assert of(state=state) == 0.0


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-1.0, 0.1), (0.0, 0.1), (10.0, 0.55), (20.0, 1.0), (90.0, 1.0)]
)
def test_a_recovering_backend_ramps_from_a_tenth_to_all(seconds: float, expected: float) -> None:
    assert of(state=State.RECOVERING, recovering=seconds) == pytest.approx(expected)


def test_no_ramp_means_full_weight_at_once() -> None:
    assert of(state=State.RECOVERING, ramp=0.0) == 1.0


def test_priority_headroom_and_state_multiply() -> None:
    expected = 0.5 * (1 / 1.4) * 0.55
    assert of(50, 100, 0.95, State.RECOVERING, 10.0) == pytest.approx(expected)
