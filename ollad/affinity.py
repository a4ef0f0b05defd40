"""Which backend holds something that only it can continue, and what it calls that there."""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aiohttp import web

__all__ = ["AFFINITY", "Affinity", "Held", "Holder"]

_CAPACITY: Final = 100_000


class Held(enum.Enum):
    """What a backend can hold."""

    RESPONSE = "response"
    """A stored response of ``/v1/responses``, by its id."""
    CONVERSATION = "conversation"
    """What a backend with an ``/extend`` of its own has under a client's ``rid``."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Where something is held.

    Attributes:
        backend: name of the backend.
        key: what that backend calls it.
    """

    backend: str
    key: str


class Affinity:
    """A bounded memory of who holds what; the least recently used go first."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._holders: OrderedDict[tuple[Held, str, str], Holder] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def remember(self, kind: Held, tenant: str, key: str, holder: Holder) -> None:
        """Note that ``holder`` has what ``tenant`` calls ``key``."""
        place = (kind, tenant, key)
        self._holders[place] = holder
        self._holders.move_to_end(place)
        while len(self._holders) > self._capacity:
            self._holders.popitem(last=False)

    def find(self, kind: Held, tenant: str, key: str) -> Holder | None:
        """Who has what ``tenant`` calls ``key``, or None."""
        place = (kind, tenant, key)
        holder = self._holders.get(place)
        if holder is not None:
            self._holders.move_to_end(place)
        return holder


AFFINITY: Final = web.AppKey("affinity", Affinity)
"""Where the application carries its memory of who holds what."""
