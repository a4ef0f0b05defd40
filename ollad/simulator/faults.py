"""Requests that go wrong on purpose."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from ollad.simulator.options import FailMode

__all__ = ["Fault", "Faults"]

_LATEST: Final = 12


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with a request.

    Attributes:
        mode: how.
        after: events of a stream that are sent before.
    """

    mode: FailMode
    after: int


class Faults:
    """Chooses the requests that fail, the same ones for the same seed."""

    def __init__(self, rate: float, mode: FailMode, seed: int) -> None:
        self._rate = rate
        self._mode = mode
        self._random = random.Random(seed)  # noqa: S311 - faults are no secret

    def change(self, rate: float, mode: FailMode) -> None:
        """From now on fail another share of requests, 0..1, in another way."""
        self._rate = rate
        self._mode = mode

    def draw(self) -> Fault | None:
        """The fault of the next request, or None."""
        if self._random.random() >= self._rate:
            return None
        first = 1 if self._mode is FailMode.STALL else 0
        return Fault(self._mode, self._random.randint(first, _LATEST))
