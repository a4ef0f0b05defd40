"""How many requests may be sent again, so that retries do not add to an overload.

A bucket of tokens: it fills with a fraction of the traffic, or ``_FLOOR`` a second if that is
more, and holds what ``_BURST`` seconds bring. Whether a request may be sent again is asked before
it is sent at all, since a reply that is passed on cannot be called back; so a token may be owed.
"""

from __future__ import annotations

from typing import Final

__all__ = ["RetryBudget"]

_FLOOR: Final = 10.0
"""Retries a second that any traffic is allowed."""
_BURST: Final = 10.0
"""Seconds of allowance that are kept for a bad moment, or that can be owed."""
_SAMPLE: Final = 1.0
"""Least seconds over which traffic is measured."""


class RetryBudget:
    """Allows retries in proportion to requests.

    Args:
        now: monotonic seconds.

    Attributes:
        requests: requests so far; the caller adds one for each.
        tokens: retries that are left, by the last look; what is owed is negative.
    """

    __slots__ = ("_measured", "_seen", "requests", "tokens")

    def __init__(self, now: float) -> None:
        self.requests = 0
        self.tokens = _FLOOR * _BURST
        self._seen = 0
        self._measured = now

    def __repr__(self) -> str:
        return f"<RetryBudget tokens={self.tokens:.1f} requests={self.requests}>"

    def empty(self, now: float, fraction: float) -> bool:
        """Whether no retry is left.

        Args:
            now: monotonic seconds.
            fraction: retries per request, 0..1.
        """
        if self.tokens >= 1.0:
            return False
        self._fill(now, fraction)
        return self.tokens < 1.0

    def spend(self, now: float, fraction: float) -> None:
        """Take a token for a retry; the arguments are those of ``empty``."""
        self._fill(now, fraction)
        self.tokens -= 1.0

    def _fill(self, now: float, fraction: float) -> None:
        elapsed = now - self._measured
        if elapsed < _SAMPLE:
            return
        rate = max(_FLOOR, fraction * (self.requests - self._seen) / elapsed)
        most = rate * _BURST
        self.tokens = min(max(self.tokens, -most) + rate * elapsed, most)
        self._seen, self._measured = self.requests, now
