"""One upstream: its configuration, the last snapshot, and what dispatch counts.

Each attribute has one writer: ``snapshot`` the health monitor, ``drained_at`` the operator's
orders, the rest the dispatcher.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Protocol

from ollad.backends.breaker import Breaker
from ollad.backends.snapshot import Snapshot

if TYPE_CHECKING:
    from ollad.config.schema import Endpoint

__all__ = ["DRAINING", "OVERLOAD_WEIGHT", "Backend", "Watcher"]

DRAINING: Final = "draining"
"""What the state of a backend is called while an operator keeps requests away from it."""

_UNLIMITED: Final = sys.maxsize

OVERLOAD_WEIGHT: Final = 0.1
"""What is left of the weight of a backend that just answered 429 or 503."""


class Watcher(Protocol):
    """What keeps something that it worked out from snapshots."""

    def backend_changed(self) -> None:
        """A snapshot has been replaced, or an operator has given an order."""


class Backend:
    """A configured endpoint and its present state.

    Attributes:
        endpoint: its configuration.
        name: the configured name.
        in_flight: requests sent there whose reply has not ended.
        overloaded_until: monotonic time before which it counts as overloaded, seconds.
        limit: requests in flight that it is sent at most.
        breaker: the failures of requests that were sent there.
        lacks: page routes that this incarnation answered with 404 or 405.
    """

    __slots__ = (
        "_drained_at",
        "_lacks",
        "_lacks_incarnation",
        "_models",
        "_pools",
        "_snapshot",
        "_weight",
        "breaker",
        "endpoint",
        "in_flight",
        "limit",
        "name",
        "overloaded_until",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.in_flight = 0
        self.limit = endpoint.max_concurrent or _UNLIMITED
        self.overloaded_until = 0.0
        self.breaker = Breaker()
        self._snapshot = Snapshot()
        self._drained_at: float | None = None
        self._weight = 0.0
        self._models: frozenset[str] = frozenset()
        self._pools: list[Watcher] = []
        self._lacks: set[str] = set()
        self._lacks_incarnation: str | None = None

    def __repr__(self) -> str:
        return (
            f"<Backend {self.name} {self.state} w={self.snapshot.weight:.2f} "
            f"in-flight={self.in_flight}>"
        )

    @property
    def snapshot(self) -> Snapshot:
        """The last thing the health monitor saw; only that assigns it."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._models = frozenset(snapshot.model_ids)
        self._changed()

    @property
    def drained_at(self) -> float | None:
        """Unix time since when an operator keeps requests away; None: nobody does."""
        return self._drained_at

    @drained_at.setter
    def drained_at(self, since: float | None) -> None:
        self._drained_at = since
        self._changed()

    def watch(self, pool: Watcher) -> None:
        """Tell ``pool`` of every change of who takes requests."""
        self._pools.append(pool)

    def unwatch(self, pool: Watcher) -> None:
        """Tell ``pool`` no more."""
        self._pools.remove(pool)

    @property
    def routable(self) -> bool:
        """Whether requests may be sent there."""
        return self.drained_at is None and self.snapshot.state.routable

    @property
    def state(self) -> str:
        """What operators are told: ``DRAINING``, or the state of its snapshot."""
        return self.snapshot.state.value if self.drained_at is None else DRAINING

    @property
    def reason(self) -> str:
        """Why it is in that state."""
        snapshot = self.snapshot
        if self.drained_at is None:
            return snapshot.reason
        return f"by an operator's order; otherwise {snapshot.state}: {snapshot.reason}"

    @property
    def since(self) -> float:
        """When that state began, Unix seconds; 0: not probed yet."""
        return self.snapshot.since if self.drained_at is None else self.drained_at

    def weight(self, now: float) -> float:
        """Its weight, 0..1, at monotonic time ``now``, overload included."""
        weight = self._weight
        return weight * OVERLOAD_WEIGHT if now < self.overloaded_until else weight

    def serves(self, model: str) -> bool:
        """Whether its last model list names ``model``."""
        return model in self._models

    def native(self, route: str) -> bool | None:
        """Whether it has ``route`` itself; None when only a try can tell."""
        if self._lacks_incarnation == self.snapshot.engine.incarnation and route in self._lacks:
            return False
        routes = self.snapshot.engine.native_routes
        return None if routes is None else route in routes

    def learn_lack(self, route: str) -> None:
        """Remember, until it restarts, that it has no ``route``."""
        incarnation = self.snapshot.engine.incarnation
        if self._lacks_incarnation != incarnation:
            self._lacks.clear()
            self._lacks_incarnation = incarnation
        self._lacks.add(route)

    def _changed(self) -> None:
        self._weight = self._snapshot.weight if self._drained_at is None else 0.0
        for pool in self._pools:
            pool.backend_changed()
