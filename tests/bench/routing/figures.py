"""The figures of an outcome."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.routing.replay import Replayed
    from tests.bench.routing.simulation import Outcome

__all__ = [
    "FIGURES",
    "HTTP_FIGURES",
    "Figure",
    "figures",
    "figures_of_replay",
    "percentile",
]


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of the tables.

    Attributes:
        key: its name in the code.
        title: its name in the tables.
        digits: after the decimal point.
    """

    key: str
    title: str
    digits: int


_TTFT: Final = (
    Figure("mean", "mean s", 3),
    Figure("p50", "p50 s", 3),
    Figure("p90", "p90 s", 3),
    Figure("p99", "p99 s", 2),
)
FIGURES: Final = (Figure("hit", "hit rate", 3), *_TTFT, Figure("imbalance", "imbalance", 2))
"""Of the model."""
HTTP_FIGURES: Final = (
    Figure("hit", "hit rate", 3),
    *_TTFT,
    Figure("failed", "failed", 0),
    Figure("late", "late s", 2),
)
"""Of a replay."""


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least that share of all are not above (nearest rank); 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def figures(outcome: Outcome) -> Mapping[str, float]:
    """Hit rate (of prompt tokens), seconds to the first token, and imbalance.

    Imbalance is the time that the busiest server computed prompts, divided by the mean of all.
    """
    return {
        "hit": outcome.cached_tokens / max(1, outcome.prompt_tokens),
        **_ttft(outcome.ttft),
        "imbalance": max(outcome.busy) / max(1e-9, fmean(outcome.busy)),
    }


def figures_of_replay(replayed: Replayed) -> Mapping[str, float]:
    """The same as far as it shows, requests without a complete reply, and how late any was sent."""
    return {
        "hit": replayed.cached_tokens / max(1, replayed.prompt_tokens),
        **_ttft(replayed.ttft),
        "failed": len(replayed.failures),
        "late": replayed.late,
    }


def _ttft(seconds: Sequence[float]) -> Mapping[str, float]:
    return {
        "mean": fmean(seconds) if seconds else 0.0,
        "p50": percentile(seconds, 0.5),
        "p90": percentile(seconds, 0.9),
        "p99": percentile(seconds, 0.99),
    }
