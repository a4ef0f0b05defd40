from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.backends.snapshot import State
from ollad.health.verdict import Outcome, Result, Standing, judge, next_round

OK = Outcome(Result.OK)
FAILED = Outcome(Result.FAILED, "no answer within 2 s on /ready")
REFUSED = Outcome(Result.REFUSED, "connection refused")
NOT_READY = Outcome(Result.NOT_READY, "503 on /ready")
UNDECIDED = Outcome(Result.UNDECIDED)


def after(
    *outcomes: Outcome,
    start: Standing | None = None,
    fall: int = 3,
    rise: int = 2,
    ramp: float = 20,
) -> Standing:
    """The standing after these rounds, 5 seconds apart."""
    standing = start or Standing()
    begin = standing.since
    for number, outcome in enumerate(outcomes, 1):
        now = begin + 5.0 * number
        standing = judge(standing, outcome, fall=fall, rise=rise, now=now, ramp=ramp)
    return standing


UP = after(OK)


def test_the_first_good_round_puts_a_backend_in_service_without_ramp() -> None:
    assert after(OK).state is State.HEALTHY


def test_the_first_bad_round_decides_at_once() -> None:
    assert after(FAILED).state is State.DOWN
    assert after(NOT_READY).state is State.STARTING


def test_a_healthy_backend_falls_after_as_many_bad_rounds_as_fall_says() -> None:
    assert after(FAILED, FAILED, start=UP).state is State.HEALTHY
    assert after(FAILED, FAILED, FAILED, start=UP).state is State.DOWN


def test_a_good_round_in_between_starts_the_count_again() -> None:
    assert after(FAILED, FAILED, OK, FAILED, FAILED, start=UP).state is State.HEALTHY


def test_refused_connections_take_it_out_at_once() -> None:
    assert after(REFUSED, start=UP).state is State.DOWN


def test_a_healthy_backend_that_says_it_is_not_ready_has_fall_rounds_of_grace() -> None:
    assert after(NOT_READY, NOT_READY, start=UP).state is State.HEALTHY
    assert after(NOT_READY, NOT_READY, NOT_READY, start=UP).state is State.STARTING


def test_a_backend_that_is_down_and_answers_not_ready_is_starting() -> None:
    assert after(REFUSED, NOT_READY).state is State.STARTING


def test_it_takes_rise_good_rounds_to_recover() -> None:
    assert after(REFUSED, OK).state is State.DOWN
    assert after(REFUSED, OK, OK).state is State.RECOVERING
    assert after(REFUSED, OK, FAILED, OK).state is State.DOWN


def test_a_recovered_backend_is_healthy_once_the_ramp_is_over() -> None:
    assert after(REFUSED, OK, OK, OK, OK, OK).state is State.RECOVERING
    assert after(REFUSED, OK, OK, OK, OK, OK, OK).state is State.HEALTHY


def test_without_a_ramp_it_is_healthy_at_once() -> None:
    assert after(REFUSED, OK, OK, ramp=0).state is State.HEALTHY


def test_an_undecided_round_changes_nothing() -> None:
    failing = after(FAILED, FAILED, start=UP)
    assert after(UNDECIDED, UNDECIDED, start=failing) == failing


def test_the_reason_of_a_backend_in_service_counts_its_bad_rounds() -> None:
    assert after(FAILED, start=UP).reason == f"{FAILED.reason} (1 of 3 bad rounds)"
    assert after(FAILED, FAILED, FAILED, start=UP).reason == FAILED.reason


def test_the_time_of_a_change_is_kept_while_the_state_lasts() -> None:
    down = after(OK, REFUSED)
    assert down.since == 10.0
    assert after(FAILED, start=down).since == 10.0


@given(
    outcomes=st.lists(st.sampled_from([OK, FAILED, REFUSED, NOT_READY, UNDECIDED]), max_size=40),
    fall=st.integers(1, 5),
    rise=st.integers(1, 5),
)
def test_whatever_happens_the_rules_hold(outcomes: list[Outcome], fall: int, rise: int) -> None:
    standing = Standing()
    for number, outcome in enumerate(outcomes):
        before = standing
        standing = judge(before, outcome, fall=fall, rise=rise, now=float(number), ramp=3.0)
        assert not (standing.failures and standing.successes)
        if outcome.result is Result.REFUSED:
            assert standing.state is State.DOWN
        if before.state.routable and not standing.state.routable:
            assert standing.failures >= fall or outcome.result is Result.REFUSED
        if standing.state.routable and not before.state.routable:
            assert before.state is State.UNKNOWN or standing.successes >= rise


@pytest.mark.parametrize("result", list(Result))
def test_results_are_words_for_metrics(result: Result) -> None:
    assert result.value.replace("_", "").isalpha()


@pytest.mark.parametrize(
    ("state", "interval", "ramp", "expected"),
    [
        (State.HEALTHY, 60.0, 20.0, 60.0),
        (State.DOWN, 60.0, 20.0, 60.0),
        (State.RECOVERING, 60.0, 20.0, 4.0),
        (State.RECOVERING, 2.0, 20.0, 2.0),
        (State.RECOVERING, 5.0, 0.01, 0.1),
        (State.RECOVERING, 0.05, 0.01, 0.05),
    ],
)
def test_a_backend_whose_weight_grows_is_probed_several_times_meanwhile(
    state: State, interval: float, ramp: float, expected: float
) -> None:
    assert next_round(state, interval=interval, ramp=ramp) == expected
