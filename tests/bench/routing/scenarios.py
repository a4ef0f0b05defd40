"""What is measured: which workload, on how many servers, of which kinds, in which way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING, Final

from tests.bench.routing.end_to_end import SECONDS, measure, slice_of
from tests.bench.routing.figures import figures, figures_of_replay
from tests.bench.routing.fleets import FLEETS
from tests.bench.routing.policies import POLICIES
from tests.bench.routing.simulation import simulate
from tests.bench.routing.workloads import SYNTHETIC, workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.bench.routing.end_to_end import Proxy

__all__ = ["SCENARIOS", "Part", "Scenario", "chosen", "modelled", "replayed"]


class Part(StrEnum):
    """In which way something is measured."""

    MODEL = "model"
    """As discrete events."""
    HTTP = "http"
    """With real proxies."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table.

    Attributes:
        part: how it is measured.
        workload: what comes.
        servers: how many there are.
        fleet: of which kinds.
    """

    part: Part
    workload: str
    servers: int = 8
    fleet: str = "equal"

    @property
    def name(self) -> str:
        """Such as ``model/trace/8/mixed``."""
        return f"{self.part}/{self.workload}/{self.servers}/{self.fleet}"


SCENARIOS: Final = (
    *(
        Scenario(Part.MODEL, "trace", servers, fleet)
        for fleet in ("equal", "mixed")
        for servers in (4, 8, 64)
    ),
    Scenario(Part.MODEL, "trace", 8, "mixed-decode"),
    Scenario(Part.MODEL, "trace-spread"),
    Scenario(Part.MODEL, "trace-unary"),
    *(Scenario(Part.MODEL, one.name, servers) for one in SYNTHETIC for servers in (4, 8, 64)),
    *(Scenario(Part.MODEL, one.name, 8, "mixed") for one in SYNTHETIC),
    Scenario(Part.HTTP, "trace-spread"),
    Scenario(Part.HTTP, "trace-spread", 8, "mixed"),
)


def chosen(patterns: Sequence[str]) -> tuple[Scenario, ...]:
    """The scenarios whose names fit one of the patterns, such as ``model/trace/*``.

    Raises:
        ValueError: if one of them fits none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(one.name, pattern) for one in SCENARIOS):
            names = "\n  ".join(one.name for one in SCENARIOS)
            raise ValueError(f"no scenario is like {pattern!r}; there are\n  {names}")
    return tuple(
        one for one in SCENARIOS if any(fnmatchcase(one.name, pattern) for pattern in patterns)
    )


def modelled(scenario: Scenario, seed: int, trace: Path) -> Mapping[str, Mapping[str, float]]:
    """Figures of all policies in one round of the model, by the policy's name.

    Raises:
        OSError: the trace cannot be read.
        ValueError: it is no trace.
    """
    load = workload(scenario.workload, scenario.servers, Random(seed), trace)
    fleet = FLEETS[scenario.fleet](scenario.servers)
    return {
        name: figures(simulate(make(Random(seed)), fleet, load, Random(seed)))
        for name, make in POLICIES.items()
    }


def replayed(scenario: Scenario, proxy: Proxy, seed: int, trace: Path) -> Mapping[str, float]:
    """Figures of one proxy in one round over HTTP.

    Raises:
        NotStartedError: if something does not come up.
        OSError: the trace cannot be read.
        ValueError: it is no trace.
    """
    load = slice_of(workload(scenario.workload, scenario.servers, Random(seed), trace), SECONDS)
    fleet = FLEETS[scenario.fleet](scenario.servers)
    return figures_of_replay(measure(proxy, fleet, load))
