"""One upstream: its configuration, the last snapshot, and what dispatch counts.

Each attribute has one writer: ``snapshot`` the health task, the rest the dispatcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

from ollad.backends.snapshot import Snapshot

if TYPE_CHECKING:
    from ollad.config.schema import Endpoint

__all__ = ["Backend", "Watcher"]

OVERLOAD_WEIGHT: Final = 0.1
"""What is left of the weight of a backend that just answered 429 or 503."""


class Watcher(Protocol):
    """What keeps something that it worked out from snapshots."""

    def backend_changed(self) -> None:
        """A snapshot has been replaced."""


class Backend:
    """A configured endpoint and its present state.

    Attributes:
        endpoint: its configuration.
        name: the configured name.
        in_flight: requests sent there whose reply has not ended.
        overloaded_until: monotonic time before which it counts as overloaded, seconds.
        lacks: page routes that this incarnation answered with 404 or 405.
    """

    __slots__ = (
        "_lacks",
        "_lacks_incarnation",
        "_models",
        "_pools",
        "_snapshot",
        "endpoint",
        "in_flight",
        "name",
        "overloaded_until",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.in_flight = 0
        self.overloaded_until = 0.0
        self._snapshot = Snapshot()
        self._models: frozenset[str] = frozenset()
        self._pools: WeakSet[Watcher] = WeakSet()
        self._lacks: set[str] = set()
        self._lacks_incarnation: str | None = None

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return (
            f"<Backend {self.name} {snapshot.state} w={snapshot.weight:.2f} "
            f"in-flight={self.in_flight}>"
        )

    @property
    def snapshot(self) -> Snapshot:
        """The last thing the health task saw; only that task assigns it."""
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._models = frozenset(snapshot.model_ids)
        for pool in self._pools:
            pool.backend_changed()

    def watch(self, pool: Watcher) -> None:
        """Tell ``pool`` of every new snapshot, as long as it is in use."""
        self._pools.add(pool)

    @property
    def routable(self) -> bool:
        """Whether requests may be sent there."""
        return self.snapshot.state.routable

    def weight(self, now: float) -> float:
        """Its weight, 0..1, at monotonic time ``now``, overload included."""
        weight = self.snapshot.weight
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
