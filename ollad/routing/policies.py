"""Which of the eligible backends gets a request.

A policy is synchronous and pure over snapshots and counters: time and randomness are handed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend

__all__ = ["LeastConnections", "Policy"]


class Policy(Protocol):
    """A way to choose."""

    def pick(self, candidates: Sequence[Backend], now: float) -> Backend:
        """Choose one of the candidates, of which there is at least one, at monotonic ``now``."""


class LeastConnections:
    """The backend whose share of requests in flight, one more counted, is least for its weight.

    Args:
        random: uniform in 0..1; decides between equals, so that they fill evenly.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random

    def pick(self, candidates: Sequence[Backend], now: float) -> Backend:
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
