"""The policies by the names that the configuration knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ollad.config.schema import PrefixSettings
from ollad.routing.least_connections import LeastConnections
from ollad.routing.policy import Policy
from ollad.routing.prefix_cache import PrefixCache
from ollad.routing.priority import Priority, Tier
from ollad.routing.round_robin import RoundRobin

__all__ = ["POLICIES", "Maker", "make_policy"]

Maker = Callable[[PrefixSettings, Callable[[str], Tier], Callable[[], float]], Policy]
"""Makes a policy of the settings, of what is configured of each backend, and of dice."""

POLICIES: Final[dict[str, Maker]] = {
    "prefix-cache": lambda settings, _, random: PrefixCache(settings, random),
    "least-connections": lambda _, __, random: LeastConnections(random),
    "round-robin": lambda _, __, ___: RoundRobin(),
    "priority": lambda settings, tier_of, random: Priority(PrefixCache(settings, random), tier_of),
}
"""Values of ``routing.policy``, the default first."""


def make_policy(
    name: str,
    settings: PrefixSettings,
    tier_of: Callable[[str], Tier],
    random: Callable[[], float],
) -> Policy:
    """Make the policy called ``name``.

    Args:
        name: one of ``POLICIES``.
        settings: of ``prefix-cache``, and of ``priority``, which uses it within a tier.
        tier_of: what is configured of the backend of a name.
        random: uniform in 0..1.
    """
    return POLICIES[name](settings, tier_of, random)
