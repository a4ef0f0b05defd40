"""From the outcomes of rounds of probes to the state of a backend, with hysteresis.

Rules:
    1. The first round of all decides at once, and its success needs no ramp.
    2. A backend in service is taken out by ``fall`` rounds in a row that went wrong; what the
       last of them said makes it STARTING or DOWN. Refused connections take it out at once.
    3. A backend out of service is named after its last bad round.
    4. ``rise`` good rounds in a row bring it back, as RECOVERING; after ``ramp`` seconds the next
       good round makes it HEALTHY.
    5. An undecided round changes nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ollad.backends.snapshot import State

__all__ = ["Outcome", "Result", "Standing", "judge", "next_round"]

_RAMP_STEPS: Final = 5
"""Rounds in which a recovering backend gets its weight back, at least."""
_LEAST_PAUSE: Final = 0.1
"""Seconds between two of them, however short the ramp is."""


class Result(enum.StrEnum):
    """What one round of probes came to."""

    OK = "ok"
    FAILED = "failed"
    """Silence, a broken exchange, an error."""
    REFUSED = "refused"
    """Nothing listens there."""
    NOT_READY = "not_ready"
    """It says itself that it cannot serve yet, or any more."""
    UNDECIDED = "undecided"
    """A probe that failed before is under way again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round's result and, unless it went well, why; ``reason`` holds no secret or address."""

    result: Result
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a backend stands after its last round.

    Attributes:
        state: its state.
        reason: why, for operators.
        failures: rounds in a row that went wrong.
        successes: good rounds in a row.
        since: monotonic time of the last change of state, seconds.
    """

    state: State = State.UNKNOWN
    reason: str = "not probed yet"
    failures: int = 0
    successes: int = 0
    since: float = 0.0


def judge(
    before: Standing, outcome: Outcome, *, fall: int, rise: int, now: float, ramp: float
) -> Standing:
    """The standing after one more round.

    Args:
        before: the standing so far.
        outcome: what the round came to.
        fall: bad rounds in a row that take a backend out of service.
        rise: good rounds in a row that bring it back.
        now: monotonic time, seconds.
        ramp: seconds from RECOVERING to HEALTHY.
    """
    if outcome.result is Result.UNDECIDED:
        return before
    if outcome.result is Result.OK:
        failures, successes = 0, before.successes + 1
        state = _after_success(before, successes, rise=rise, now=now, ramp=ramp)
        reason = _reason_up(state, successes, rise)
    else:
        failures, successes = before.failures + 1, 0
        state = _after_failure(before.state, outcome.result, failures, fall)
        reason = outcome.reason
        if state.routable:
            reason = f"{reason} ({failures} of {fall} bad rounds)"
    since = before.since if state is before.state else now
    return Standing(state, reason, failures, successes, since)


def next_round(state: State, *, interval: float, ramp: float) -> float:
    """Seconds from the beginning of a round to that of the next.

    Weights change with rounds, so a backend whose weight grows needs several of them, however
    rarely it is probed otherwise.

    Args:
        state: the backend's state after the round.
        interval: its ``check_interval``, seconds.
        ramp: seconds from RECOVERING to HEALTHY.
    """
    if state is not State.RECOVERING:
        return interval
    return min(interval, max(_LEAST_PAUSE, ramp / _RAMP_STEPS))


def _after_success(
    before: Standing, successes: int, *, rise: int, now: float, ramp: float
) -> State:
    match before.state:
        case State.UNKNOWN | State.HEALTHY:
            return State.HEALTHY
        case State.RECOVERING:
            return State.HEALTHY if now - before.since >= ramp else State.RECOVERING
        case State.STARTING | State.DOWN:
            if successes < rise:
                return before.state
            return State.RECOVERING if ramp > 0 else State.HEALTHY


def _after_failure(state: State, result: Result, failures: int, fall: int) -> State:
    if result is Result.REFUSED:
        return State.DOWN
    if state.routable and failures < fall:
        return state
    return State.STARTING if result is Result.NOT_READY else State.DOWN


def _reason_up(state: State, successes: int, rise: int) -> str:
    match state:
        case State.HEALTHY:
            return "answers its probes"
        case State.RECOVERING:
            return "answers its probes again"
        case _:
            return f"answers again ({successes} of {rise} good rounds)"
