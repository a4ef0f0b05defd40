"""The policy that counts requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.routing.bookless import Bookless

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate

__all__ = ["LeastConnections"]


class LeastConnections(Bookless):
    """The backend whose share of requests in flight, one more counted, is least for its weight.

    Args:
        random: uniform in 0..1; decides between equals, so that they fill evenly.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002 - whatever is asked
        """Choose by weighted requests in flight."""
        best = candidates[0]
        best_cost = float("inf")
        equals = 0
        for backend in candidates:
            weight = backend.weight(now)
            cost = (backend.in_flight + 1) / weight if weight > 0 else float("inf")
            if cost < best_cost:
                best, best_cost, equals = backend, cost, 1
            elif cost == best_cost:
                equals += 1
                if self._random() * equals < 1:
                    best = backend
        return best
