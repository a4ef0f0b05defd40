"""How much of the load a backend should get, from its priority, its memory and its health."""

from __future__ import annotations

from typing import Final

from ollad.backends.snapshot import State

__all__ = ["headroom", "weight"]

_COMFORTABLE: Final = 0.85
"""Share of the KV cache that running requests may pin before a backend is spared."""
_STEEPNESS: Final = 4.0
_RAMP_START: Final = 0.1
"""Weight of a backend that has just come back."""


def weight(
    priority: int,
    highest_priority: int,
    token_usage: float | None,
    state: State,
    *,
    seconds_recovering: float,
    ramp: float,
) -> float:
    """The weight of a backend, 0..1: priority share x headroom x state.

    Args:
        priority: its ``endpoints[].priority``.
        highest_priority: the highest of all endpoints.
        token_usage: share of the KV cache that running requests pin, 0..1; None if unknown.
        state: its state of health; one that takes no requests weighs 0.
        seconds_recovering: how long it has been ``RECOVERING``.
        ramp: seconds after which a recovering backend has its full weight.
    """
    share = priority / highest_priority if highest_priority > 0 else 1.0
    return share * headroom(token_usage) * _state_factor(state, seconds_recovering, ramp)


def headroom(token_usage: float | None) -> float:
    """1 while the KV cache has room, falling to 0.625 when it is pinned whole; 1 if unknown."""
    if token_usage is None:
        return 1.0
    return 1.0 / (1.0 + _STEEPNESS * max(0.0, token_usage - _COMFORTABLE))


def _state_factor(state: State, seconds_recovering: float, ramp: float) -> float:
    if not state.routable:
        return 0.0
    if state is State.HEALTHY or ramp <= 0:
        return 1.0
    grown = min(1.0, max(0.0, seconds_recovering / ramp))
    return _RAMP_START + (1.0 - _RAMP_START) * grown
