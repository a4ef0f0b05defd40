"""The policies that are compared, by name, each made fresh for a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.config.schema import PrefixSettings
from ollad.routing.priority import Tier
from ollad.routing.selection import POLICIES as OURS
from ollad.routing.selection import make_policy
from tests.bench.routing import baselines
from tests.bench.routing.fleets import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from ollad.routing.policy import Policy
    from tests.bench.routing.server import ServerConfig

__all__ = ["BASELINES", "POLICIES", "SUBJECT", "policy"]

_OURS: Final = "ollad:"
SUBJECT: Final = f"{_OURS}prefix-cache"
"""The default of the daemon, with which all others are compared."""

BASELINES: Final[Mapping[str, Callable[[Random], Policy]]] = {
    "random": baselines.AnyOne,
    "round-robin": lambda _: baselines.RoundRobin(),
    "least-connections": baselines.LeastConnections,
    "sticky": baselines.Sticky,
    "bounded-hash": lambda _: baselines.BoundedHash(),
    "cache-aware": lambda _: baselines.CacheAware(),
}

POLICIES: Final[Mapping[str, str]] = {
    "random": "any",
    "round-robin": "each in turn",
    "least-connections": "the one with the fewest requests in flight, equals at random",
    "sticky": "what begins (1,024 tokens) like a prompt of the last ten minutes goes where that "
    "went, as with Olla's sticky sessions; else least connections",
    "bounded-hash": "consistent hashing of the first 1,024 tokens with bounded loads (1.25)",
    "cache-aware": "as SGLang's router: one tree of all prompts, thresholds 0.3 / 64 / 1.5",
    **{f"{_OURS}{name}": f"`routing.policy: {name}`" for name in OURS},
}
"""What all of them are, for readers."""


def policy(name: str, dice: Random, fleet: Sequence[ServerConfig]) -> Policy:
    """Make one.

    Args:
        name: one of ``POLICIES``.
        dice: decides between equals.
        fleet: the servers that it will choose from.

    Raises:
        KeyError: there is none of that name.
    """
    if not name.startswith(_OURS):
        return BASELINES[name](dice)
    tiers = {name_of(number): Tier(server.priority) for number, server in enumerate(fleet)}
    return make_policy(name.removeprefix(_OURS), PrefixSettings(), tiers.__getitem__, dice.random)
