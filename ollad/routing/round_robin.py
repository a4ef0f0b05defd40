"""The policy that takes turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.routing.bookless import Bookless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate, Ticket

__all__ = ["RoundRobin"]


class RoundRobin(Bookless):
    """The backend whose last turn is longest ago.

    So the rotation is exact while the candidates stay the same, and goes on where it was when one
    of them comes, goes, or does not serve a model. One that never had a turn has it next.
    """

    def __init__(self) -> None:
        self._turns = 0
        self._last: dict[str, int] = {}

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002 - whatever is asked
        """Choose whose turn it is; of those that never had one the first."""
        last = self._last
        return min(candidates, key=lambda backend: last.get(backend.name, 0))

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:
        """Its turn is now."""
        self._turns += 1
        self._last[backend.name] = self._turns
        return super().begin(backend, demand, now)

    def forget(self, name: str) -> None:
        """Drop its last turn."""
        self._last.pop(name, None)
