"""What was measured, and what is promised about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

from tests.bench.routing.policies import SUBJECT
from tests.bench.routing.scenarios import Part, Scenario
from tests.bench.table import ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TARGETS", "Results", "Target", "subject"]


@dataclass(slots=True)
class Results:
    """Figures of all rounds.

    Attributes:
        rounds: one mapping per round, by the name of the scenario and that of policy or proxy.
        failures: runs that gave no figures, and why.
    """

    rounds: list[dict[tuple[str, str], Mapping[str, float]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def has(self, scenario: str, who: str) -> bool:
        """Whether there are figures."""
        return any((scenario, who) in found for found in self.rounds)

    def figures(self, scenario: str, who: str, key: str) -> list[float | None]:
        """One figure of each round; None where there is none."""
        return [found.get((scenario, who), {}).get(key) for found in self.rounds]

    def middle(self, scenario: str, who: str, key: str) -> float | None:
        """The median of the rounds."""
        known = [one for one in self.figures(scenario, who, key) if one is not None]
        return median(known) if known else None

    def ratio(self, scenario: str, who: str, other: str, key: str) -> float | None:
        """One figure divided by that of the other, the median of the ratios of each round."""
        return ratio(self.figures(scenario, who, key), self.figures(scenario, other, key))


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the ratio of two figures.

    Attributes:
        scenario: where they are measured.
        key: which figure.
        other: by whose the one of ollad's default is divided.
        bound: what the ratio must not pass.
        least: whether it must not be less than that, rather than not more.
    """

    scenario: Scenario
    key: str
    other: str
    bound: float
    least: bool = False

    def met(self, value: float) -> bool:
        """Whether a ratio keeps it."""
        return value >= self.bound if self.least else value <= self.bound


def subject(part: Part) -> str:
    """What stands for ollad as it comes."""
    return SUBJECT if part is Part.MODEL else "ollad"


_ROUTER: Final = "cache-aware"
_SIZES: Final = (4, 8, 64)

TARGETS: Final = (
    *(
        Target(Scenario(Part.MODEL, "trace", servers), key, _ROUTER, bound, least=least)
        for key, bound, least in (("mean", 0.75, False), ("p99", 0.85, False), ("hit", 0.9, True))
        for servers in _SIZES
    ),
    *(
        Target(Scenario(Part.MODEL, "trace", servers, "mixed"), "mean", _ROUTER, 0.5)
        for servers in _SIZES
    ),
    *(
        Target(Scenario(Part.MODEL, workload, servers), key, "round-robin", 1.05)
        for workload in ("random", "hot-prefix")
        for key in ("mean", "p99")
        for servers in _SIZES
    ),
    Target(Scenario(Part.HTTP, "trace-spread"), "mean", "sglang-router", 1.0),
    Target(Scenario(Part.HTTP, "trace-spread", 8, "mixed"), "mean", "sglang-router", 1.0),
)
