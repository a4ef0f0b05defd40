"""The policy of strict tiers: a lower priority is for what the higher ones cannot take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ollad.backends.snapshot import Snapshot
    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate, Policy, Standing, Ticket

__all__ = ["Priority", "Tier"]

_FULL: Final = 0.95
"""Share of the KV cache that running requests pin from which on another has to wait."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What the operator configured of a backend.

    Attributes:
        priority: the higher, the sooner.
        max_concurrent: requests that it takes at a time; 0 is no limit.
    """

    priority: int
    max_concurrent: int = 0


class Priority:
    """Chooses among the backends of the highest priority that are not saturated.

    A backend is saturated while it

    - has as many requests in flight as it may have, or
    - has just answered that it is overloaded, or
    - has its KV cache pinned by running requests, or
    - had requests waiting when it was last asked, and has not finished as many since.

    If all are, all are candidates.

    Args:
        inner: chooses within a tier, and keeps the books.
        tier_of: what is configured of the backend of a name.
    """

    def __init__(self, inner: Policy, tier_of: Callable[[str], Tier]) -> None:
        self._inner = inner
        self._tier_of = tier_of
        self._seen: dict[str, tuple[Snapshot, int]] = {}

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        """Choose in the highest tier that has room."""
        tiers: dict[int, list[Candidate]] = {}
        for backend in candidates:
            tier = self._tier_of(backend.name)
            if not self._saturated(backend, tier, now):
                tiers.setdefault(tier.priority, []).append(backend)
        open_ = tiers[max(tiers)] if tiers else candidates
        return self._inner.pick(open_, demand, now)

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:
        """Have the inner policy take note."""
        return self._inner.begin(backend, demand, now)

    def forget(self, name: str) -> None:
        """Drop what is kept of a backend."""
        self._seen.pop(name, None)
        self._inner.forget(name)

    def standings(self) -> Mapping[str, Standing]:
        """The books of the inner policy."""
        return self._inner.standings()

    def _saturated(self, backend: Candidate, tier: Tier, now: float) -> bool:
        snapshot = backend.snapshot
        in_flight = backend.in_flight
        weight = backend.weight(now)
        if weight <= 0 or weight < snapshot.weight:
            return True
        if 0 < tier.max_concurrent <= in_flight:
            return True
        load = snapshot.load
        if (load.token_usage or 0.0) >= _FULL:
            return True
        seen = self._seen.get(backend.name)
        if seen is None or seen[0] is not snapshot:
            seen = self._seen[backend.name] = (snapshot, in_flight)
        return bool(load.waiting) and (load.waiting or 0) + in_flight - seen[1] > 0
