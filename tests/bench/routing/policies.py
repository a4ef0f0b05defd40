"""The policies that are compared, by name, each made fresh for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.config.schema import PrefixSettings
from ollad.routing.least_connections import LeastConnections
from ollad.routing.prefix_cache import PrefixCache
from ollad.routing.round_robin import RoundRobin
from tests.bench.routing import baselines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from ollad.routing.policy import Policy

__all__ = ["BASELINES", "OURS", "POLICIES", "SUBJECT", "TITLES"]

BASELINES: Final[Mapping[str, Callable[[Random], Policy]]] = {
    "random": baselines.AnyOne,
    "round-robin": lambda _: baselines.RoundRobin(),
    "least-connections": baselines.LeastConnections,
    "sticky": baselines.Sticky,
    "bounded-hash": lambda _: baselines.BoundedHash(),
    "cache-aware": lambda _: baselines.CacheAware(),
}

SUBJECT: Final = "ollad:prefix-cache"
"""The default of the daemon, with which all others are compared."""
OURS: Final[Mapping[str, Callable[[Random], Policy]]] = {
    SUBJECT: lambda dice: PrefixCache(PrefixSettings(), dice.random),
    "ollad:least-connections": lambda dice: LeastConnections(dice.random),
    "ollad:round-robin": lambda _: RoundRobin(),
}

POLICIES: Final[Mapping[str, Callable[[Random], Policy]]] = {**BASELINES, **OURS}

TITLES: Final[Mapping[str, str]] = {
    "random": "any",
    "round-robin": "each in turn",
    "least-connections": "the one with the fewest requests in flight, equals at random",
    "sticky": "what begins (1,024 tokens) like a prompt of the last ten minutes goes where that "
    "went, as with Olla's sticky sessions; else least connections",
    "bounded-hash": "consistent hashing of the first 1,024 tokens with bounded loads (1.25)",
    "cache-aware": "as SGLang's router: one tree of all prompts, thresholds 0.3 / 64 / 1.5",
    SUBJECT: "ollad's default: least expected wait",
    "ollad:least-connections": "ollad's, which minds weights",
    "ollad:round-robin": "ollad's",
}
"""What each of them is, for readers."""
