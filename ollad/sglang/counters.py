"""Figures that need more than one look at a server: rates over a window, counters over restarts.

Both are immutable values; their owner keeps the last one and hands it in again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["HitRateWindow", "MonotonicCount", "PromptTokens"]

_SPAN: Final = 60.0
"""Seconds of traffic that make up the hit rate."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Two counters of one server: prompt tokens found in the radix cache, and all of them."""

    cached: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class HitRateWindow:
    """Share of prompt tokens found in the cache over the last minute of traffic.

    Begins at the counters' own start (0, 0), so the first look yields the rate since then. While
    no prompt arrives the last rate stands.

    Attributes:
        marks: (monotonic seconds, counters) at each look that saw new prompt tokens, oldest
            first.
    """

    marks: tuple[tuple[float, PromptTokens], ...] = ()

    def advanced(self, now: float, tokens: PromptTokens | None) -> HitRateWindow:
        """The window after a look at ``now``; ``tokens`` is None if the counters are unknown."""
        marks = self.marks or ((now, PromptTokens()),)
        if tokens is None or tokens.total <= marks[-1][1].total:
            return self
        marks = (*marks, (now, tokens))
        # The newest mark at or beyond the span's far end is where the span begins.
        begin = max((i for i, (at, _) in enumerate(marks) if at <= now - _SPAN), default=0)
        return HitRateWindow(marks[begin:])

    @property
    def rate(self) -> float | None:
        """Cached share of the window's prompt tokens, 0..1; None before any traffic."""
        if len(self.marks) < 2:
            return None
        first, last = self.marks[0][1], self.marks[-1][1]
        share = (last.cached - first.cached) / (last.total - first.total)
        return min(1.0, max(0.0, share))


@dataclass(frozen=True, slots=True)
class MonotonicCount:
    """A counter that goes on where it was when the server behind it starts from 0 again.

    Attributes:
        base: what earlier incarnations counted.
        last: the highest figure of the present one; None before the first.
        restarting: whether the next figure may be that of a new incarnation.
    """

    base: int = 0
    last: int | None = None
    restarting: bool = False

    def advanced(self, value: int | None) -> MonotonicCount:
        """The counter after a look that saw ``value``, or None for nothing.

        Without a restart a smaller figure changes nothing: a count derived from several counters
        may dip while requests are under way.
        """
        if value is None:
            return self
        last = self.last or 0
        if self.restarting and value < last:
            return MonotonicCount(self.base + last, value)
        return MonotonicCount(self.base, max(value, last))

    def restarted(self) -> MonotonicCount:
        """The counter after the server behind it restarted, or may have."""
        return MonotonicCount(self.base, self.last, restarting=True)

    @property
    def value(self) -> int | None:
        """Everything counted so far; None before the first figure."""
        return None if self.last is None else self.base + self.last
