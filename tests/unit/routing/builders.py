"""Demands that many tests start from."""

from __future__ import annotations

from ollad.routing.demand import Demand

BLOCK = 32.0


def chain_of(text: str) -> tuple[int, ...]:
    """One block per letter, each covering those before it."""
    return tuple(hash(text[: end + 1]) for end in range(len(text)))


def demand_of(text: str, *, more: float = 0.0, silent: bool = False) -> Demand:
    """A prompt of one block per letter, and ``more`` tokens that fill none."""
    return Demand(chain_of(text), len(text) * BLOCK + more, BLOCK, silent=silent)
