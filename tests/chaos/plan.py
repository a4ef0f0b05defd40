"""What goes wrong and when: drawn once from a seed, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.chaos.records import Trouble

__all__ = ["Act", "Plan", "Reload", "make_plan"]

_SECONDS: Final = {
    Trouble.KILL: (1.0, 5.0),
    Trouble.RESTART: (0.5, 3.0),
    Trouble.STOP: (2.0, 8.0),
    Trouble.BLACK_HOLE: (2.0, 6.0),
    Trouble.REMOVE: (2.0, 6.0),
    Trouble.UNAVAILABLE: (2.0, 6.0),
    Trouble.BUSY: (2.0, 6.0),
    Trouble.STALL: (1.0, 4.0),
    Trouble.GARBAGE: (1.0, 4.0),
    Trouble.RESET: (1.0, 4.0),
    Trouble.TRUNCATE: (1.0, 4.0),
}
"""How long each takes at least and at most."""

_RATES: Final = {
    Trouble.UNAVAILABLE: (0.3, 1.0),
    Trouble.BUSY: (0.3, 1.0),
    Trouble.STALL: (0.2, 0.6),
    Trouble.GARBAGE: (0.2, 0.6),
    Trouble.RESET: (0.2, 0.6),
    Trouble.TRUNCATE: (0.2, 0.6),
}
"""Which share of requests gets it, where that is not all."""

_SPACING: Final = 2.2
_QUIET_END: Final = 0.1
_OUTAGE_FROM: Final = 60.0
_OUTAGE_SECONDS: Final = 2.0
_OUTAGE_QUIET: Final = 1.0
_RELOADS: Final = 7.0


@dataclass(frozen=True, slots=True)
class Act:
    """Something done to a backend.

    Attributes:
        at: seconds after the start of the load.
        backend: its number, from 0.
        trouble: what.
        seconds: for how long.
        rate: share of requests it is done to, 0..1.
    """

    at: float
    backend: int
    trouble: Trouble
    seconds: float
    rate: float


@dataclass(frozen=True, slots=True)
class Reload:
    """A SIGHUP with a file that is good, or bad in one of several ways."""

    at: float
    good: bool
    variant: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that will be done.

    Attributes:
        outage: seconds from and to which no backend runs at all; None if there always is one.
    """

    acts: tuple[Act, ...]
    reloads: tuple[Reload, ...]
    outage: tuple[float, float] | None


def make_plan(
    seed: int,
    seconds: float,
    backends: int,
    *,
    pace: float,
    recovery: float,
    black_holes: bool,
    least_up: int = 1,
) -> Plan:
    """Draw a plan.

    At every moment outside of the outage at least ``least_up`` backends are, and have for
    ``recovery`` been, in no trouble. Every trouble has its turn before one comes again.

    Args:
        seed: what it depends on.
        seconds: how long the load lasts; the last tenth is quiet, so that troubles are over.
        backends: how many there are.
        pace: what all durations are multiplied with.
        recovery: seconds after a trouble for which a backend does not count as up.
        black_holes: whether packets can be dropped.
        least_up: see above.
    """
    dice = random.Random(f"plan {seed}")
    last = seconds * (1 - _QUIET_END)
    outage = None
    if seconds >= _OUTAGE_FROM:
        begin = seconds * 0.6
        outage = (begin, begin + _OUTAGE_SECONDS)
    acts: list[Act] = []
    deck: list[Trouble] = []
    at = 0.5 * pace
    while at < last:
        if outage and outage[0] - _OUTAGE_QUIET <= at <= outage[1] + recovery:
            at = outage[1] + recovery
        deck = deck or _shuffled(dice, black_holes=black_holes)
        act = _drawn(dice, at, deck, acts, backends, pace, recovery, least_up)
        end = last
        if outage and at < outage[0]:
            end = outage[0] - _OUTAGE_QUIET
        if act is not None and at + act.seconds < end:
            acts.append(act)
            deck.pop()
            at += dice.uniform(0.4, 1.6) * _SPACING * pace
        else:
            at += 0.2 * pace
    return Plan(tuple(acts), _reloads(dice, last, pace), outage)


def _shuffled(dice: random.Random, *, black_holes: bool) -> list[Trouble]:
    deck = [trouble for trouble in Trouble if black_holes or trouble is not Trouble.BLACK_HOLE]
    dice.shuffle(deck)
    return deck


def _drawn(
    dice: random.Random,
    at: float,
    deck: list[Trouble],
    acts: list[Act],
    backends: int,
    pace: float,
    recovery: float,
    least_up: int,
) -> Act | None:
    """The next act, if there is a backend for it; the draw is made in any case."""
    trouble = deck[-1]
    seconds = dice.uniform(*_SECONDS[trouble]) * pace
    rate = dice.uniform(*_RATES.get(trouble, (1.0, 1.0)))
    pick = dice.random()
    troubled = {act.backend for act in acts if at <= act.at + act.seconds + recovery}
    free = [number for number in range(backends) if number not in troubled]
    if len(free) <= least_up:
        return None
    return Act(at, free[int(pick * len(free))], trouble, seconds, rate)


def _reloads(dice: random.Random, last: float, pace: float) -> tuple[Reload, ...]:
    reloads: list[Reload] = []
    at = 1.0 * pace
    while at < last:
        reloads.append(Reload(at, len(reloads) % 2 == 1, len(reloads) // 2))
        at += dice.uniform(0.5, 1.5) * _RELOADS * pace
    return tuple(reloads)
