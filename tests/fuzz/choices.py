"""Decisions made from the bytes that a fuzzer hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Choices"]

_T = TypeVar("_T")


class Choices:
    """Reads numbers, texts and picks off some bytes; zeroes once they are used up.

    Args:
        data: the fuzzer's bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there are bytes left."""
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """A number from 0 on, less than ``below``, which is at most 256."""
        byte = self._data[self._at] if self else 0
        self._at += 1
        return byte % below

    def flag(self) -> bool:
        """True or false."""
        return bool(self.number(2))

    def one_of(self, options: Sequence[_T]) -> _T:
        """One of up to 256 options."""
        return options[self.number(len(options))]

    def some(self, longest: int = 40) -> bytes:
        """A few bytes."""
        length = self.number(longest + 1)
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece

    def rest(self) -> bytes:
        """All the bytes that are left."""
        piece = self._data[self._at :]
        self._at = len(self._data)
        return piece
