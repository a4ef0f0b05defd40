"""Heads of HTTP messages that were seen before, but for the length of the body.

A client's requests, and a server's replies, mostly have the same head each time. What was found out
about one that was parsed and judged with all due strictness holds for every other that has the same
bytes, so it need not be found out again. Only the digits of ``Content-Length`` may differ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEAD_END", "FamiliarHeads"]

HEAD_END: Final = b"\r\n\r\n"

_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?(0|[1-9][0-9]{0,11})\r\n")
"""The field as clients and servers write it; with any other spelling a head is never familiar."""

_NAMED: Final = re.compile(rb"\ncontent-length", re.IGNORECASE)
"""The field however it is spelled."""

_Known = TypeVar("_Known")


class FamiliarHeads(Generic[_Known]):
    """What is known of heads, by their bytes.

    Args:
        count: heads that are remembered.
        longest: bytes of the longest head that is remembered.
    """

    __slots__ = ("_count", "_known", "_longest", "_unsized")

    def __init__(self, count: int, longest: int) -> None:
        self._count = count
        self._longest = longest
        self._known: dict[bytes, _Known] = {}
        self._unsized = False  # whether any without a length was learnt; they are found soonest

    def __len__(self) -> int:
        return len(self._known)

    def recall(self, data: bytes, end: int) -> tuple[_Known, int | None] | None:
        """What is known of the head that ``data`` begins with, and its ``Content-Length``.

        Args:
            data: bytes from the beginning of a message.
            end: where its head ends, behind the empty line.

        Returns:
            None if nothing is known.
        """
        if self._unsized:
            known = self._known.get(data[:end])
            if known is not None:
                return known, None
        length = _LENGTH.search(data, 0, end)
        if length is None:
            return None
        start, stop = length.span(1)
        known = self._known.get(data[stop:end] + data[:start])
        return None if known is None else (known, int(data[start:stop]))

    def learn(self, data: bytes, end: int, make: Callable[[], _Known]) -> None:
        """Remember what is known of a head, which has been parsed and taken.

        Args:
            data: bytes from the beginning of the message.
            end: where its head ends, behind the empty line.
            make: what is known; called only if the head can be remembered.
        """
        if end > self._longest:
            return
        length = _LENGTH.search(data, 0, end)
        if length is None and _NAMED.search(data, 0, end):
            return
        if length is None:
            self._unsized = True
            self._keep(data[:end], make())
            return
        start, stop = length.span(1)
        # what stands behind the digits goes first, so that no head without them has the same bytes:
        # each ends with an empty line
        self._keep(data[stop:end] + data[:start], make())

    def _keep(self, key: bytes, known: _Known) -> None:
        if key not in self._known and len(self._known) >= self._count:
            del self._known[next(iter(self._known))]
        self._known[key] = known
