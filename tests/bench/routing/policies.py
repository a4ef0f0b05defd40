"""The policies that are compared, by name, each made fresh for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.routing.least_connections import LeastConnections
from ollad.routing.prefix_cache import PrefixCache
from ollad.routing.round_robin import RoundRobin
from ollad.routing.settings import PrefixSettings
from tests.bench.routing import baselines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from ollad.routing.policy import Policy

__all__ = ["BASELINES", "OURS", "POLICIES"]

BASELINES: Final[Mapping[str, Callable[[Random], Policy]]] = {
    "random": baselines.AnyOne,
    "round-robin": lambda _: baselines.RoundRobin(),
    "least-connections": baselines.LeastConnections,
    "sticky": baselines.Sticky,
    "bounded-hash": lambda _: baselines.BoundedHash(),
    "cache-aware": lambda _: baselines.CacheAware(),
}

OURS: Final[Mapping[str, Callable[[Random], Policy]]] = {
    "ollad:prefix-cache": lambda dice: PrefixCache(PrefixSettings(), dice.random),
    "ollad:least-connections": lambda dice: LeastConnections(dice.random),
    "ollad:round-robin": lambda _: RoundRobin(),
}

POLICIES: Final[Mapping[str, Callable[[Random], Policy]]] = {**BASELINES, **OURS}
