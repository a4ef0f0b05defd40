"""Which backend holds something that only it can continue, such as a stored response."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from aiohttp import web

__all__ = ["AFFINITY", "Affinity"]

_CAPACITY: Final = 100_000


class Affinity:
    """A bounded memory of key → backend name; the least recently used go first."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._names: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def remember(self, tenant: str, key: str, backend: str) -> None:
        """Note that ``backend`` holds ``key`` of ``tenant``."""
        self._names[tenant, key] = backend
        self._names.move_to_end((tenant, key))
        while len(self._names) > self._capacity:
            self._names.popitem(last=False)

    def find(self, tenant: str, key: str) -> str | None:
        """The backend that holds ``key`` of ``tenant``, or None."""
        name = self._names.get((tenant, key))
        if name is not None:
            self._names.move_to_end((tenant, key))
        return name


AFFINITY: Final = web.AppKey("affinity", Affinity)
"""Where the application carries its memory of stored responses."""
