"""A token bucket, the clock handed in."""

from __future__ import annotations

from typing import Final

__all__ = ["Bucket"]

_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-6  # who waits as long as told must not find a millionth missing


class Bucket:
    """An allowance that grows at a steady rate up to a minute's worth.

    It may be overdrawn, since what a reply costs is known at its end; then nothing is to be had
    until the debt has been paid back.

    Args:
        per_minute: the rate; 0 is no limit.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_level", "_size")

    def __init__(self, per_minute: int, now: float) -> None:
        self._size = float(per_minute)
        self._level = self._size
        self._at = now

    def __repr__(self) -> str:
        return f"<Bucket {self._level:g} of {self._size:g}>"

    def resize(self, per_minute: int, now: float) -> None:
        """Go on at another rate; what was used up of the old allowance stays used up."""
        self.wait(0, now)
        used = self._size - self._level
        self._size = float(per_minute)
        self._level = self._size - used

    def wait(self, amount: int, now: float) -> float:
        """Seconds until ``amount`` can be taken, 0 if it can be at once.

        More than a minute's worth can be taken from a full bucket.
        """
        size = self._size
        if not size:
            return 0.0
        level = self._level
        if level < size:
            level += (now - self._at) * size / _MINUTE
            level = min(level, size)
            self._level = level
        self._at = now
        missing = min(amount, size) - level
        return missing * _MINUTE / size if missing > _ROUNDING else 0.0

    def claim(self, amount: int, now: float) -> float:
        """Take ``amount`` if it is there; as ``wait`` if not."""
        wait = self.wait(amount, now)
        if self._size and not wait:
            self._level -= amount
        return wait

    def take(self, amount: int, now: float) -> None:
        """Take ``amount``, there or not."""
        if self._size:
            self.wait(amount, now)
            self._level -= amount
