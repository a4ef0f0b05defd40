"""The figures of an outcome."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.routing.simulation import Outcome

__all__ = ["FIGURES", "Figure", "figures", "percentile"]


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


FIGURES: Final = (
    Figure("hit", "hit rate", 3),
    Figure("mean", "mean", 3),
    Figure("p50", "p50", 3),
    Figure("p90", "p90", 3),
    Figure("p99", "p99", 2),
    Figure("imbalance", "imbalance", 2),
)


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
    ttft = outcome.ttft
    return {
        "hit": outcome.cached_tokens / max(1, outcome.prompt_tokens),
        "mean": fmean(ttft) if ttft else 0.0,
        "p50": percentile(ttft, 0.5),
        "p90": percentile(ttft, 0.9),
        "p99": percentile(ttft, 0.99),
        "imbalance": max(outcome.busy) / max(1e-9, fmean(outcome.busy)),
    }
