"""When a backend that fails requests is left alone for a while.

Rules:
    1. Closed: requests go there. ``_STREAK`` failures in a row, or failures in half of at least
       ``_LEAST`` requests of the last ``_WINDOW`` seconds, eject it.
    2. Ejected: none go there for ``_SHORTEST`` seconds, twice as long each time it has to be
       ejected again, up to ``_LONGEST``. A backend that stayed in as long as that begins anew.
    3. Half-open, when that time is over: one request every ``_TRIAL`` seconds, until one that was
       sent after the ejection ends. Well: closed. Badly: ejected again.
    4. What was sent before the ejection neither ejects it again nor brings it back.
    5. Of the backends that could take a request at most half are left out, see ``eligible``.

What counts as a failure is said by the caller (``ollad.relay.blame``), the time as well: nothing
here looks at a clock, and the good case is two comparisons and an addition.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.backends.backend import Backend

__all__ = ["WARY_SECONDS", "Breaker", "eligible"]

_STREAK: Final = 5
"""Failures in a row that eject."""
_LEAST: Final = 10
"""Requests without which a share of failures means nothing."""
_WINDOW: Final = 10.0
"""Seconds that the share is taken over, to the length of a bucket."""
_BUCKET: Final = 1.0
"""Seconds counted together."""
_SHORTEST: Final = 5.0
"""Seconds of the first ejection."""
_LONGEST: Final = 60.0
"""Seconds of the longest, and of good conduct after which the next is the shortest again."""
_TRIAL: Final = 5.0
"""Seconds between two requests to a backend that is half-open."""

WARY_SECONDS: Final = 60.0
"""How long after the end of an ejection ``eligible`` has to be asked."""


class Breaker:
    """The failures of one backend, and what follows from them; all times monotonic, in seconds.

    Attributes:
        until: end of the last ejection; 0 while closed.
        since: when it was ejected first of the ejections that have followed on each other since;
            0 while closed.
        reason: why it was ejected last; empty while closed.
        failures: failures in a row.
        ejections: ejections that have followed on each other.
    """

    __slots__ = (
        "_answered",
        "_bucket_ends",
        "_buckets",
        "_closed_at",
        "_ejected_at",
        "_failed",
        "_tried_at",
        "_troubled",
        "ejections",
        "failures",
        "reason",
        "since",
        "until",
    )

    def __init__(self) -> None:
        self.until = 0.0
        self.since = 0.0
        self.reason = ""
        self.failures = 0
        self.ejections = 0
        self._troubled = False
        self._ejected_at = float("-inf")
        self._closed_at = float("-inf")
        self._tried_at = float("-inf")
        self._bucket_ends = float("-inf")
        self._answered = 0
        self._failed = 0
        self._buckets: deque[tuple[float, int, int]] = deque()

    def __repr__(self) -> str:
        return f"<Breaker failures={self.failures} until={self.until:.3f} {self.reason!r}>"

    @property
    def closed(self) -> bool:
        """Whether requests go there as if nothing had happened."""
        return self.until == 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may go there now."""
        return self.until == 0.0 or (now >= self.until and now >= self._tried_at + _TRIAL)

    def tried(self, now: float) -> None:
        """A request is sent there; to be told while it is not closed."""
        self._tried_at = now

    def succeeded(self, now: float, began: float) -> bool:
        """A request that was sent at ``began`` went well.

        Returns:
            Whether this brings an ejected backend back.
        """
        if now >= self._bucket_ends:
            self._turn(now)
        self._answered += 1
        return self._troubled and self._relieve(now, began)

    def failed(self, now: float, began: float, cause: str) -> bool:
        """A request that was sent at ``began`` failed by the backend's fault.

        Args:
            now: the time.
            began: when it was sent.
            cause: what happened, in a word or two.

        Returns:
            Whether this ejects it.
        """
        if began < self._ejected_at:
            return False
        if now >= self._bucket_ends:
            self._turn(now)
        self._failed += 1
        self._troubled = True
        self.failures += 1
        if self.until:
            # tried although it is ejected, as too many were: its time runs on
            return now >= self.until and self._eject(now, f"tried again and failed ({cause})")
        if self.failures >= _STREAK:
            return self._eject(now, f"{self.failures} failures in a row (the last: {cause})")
        failed, answered = self._counts(now)
        if failed + answered >= _LEAST and failed >= answered:
            share = f"{failed} of {failed + answered} requests failed in {_WINDOW:.0f} s"
            return self._eject(now, f"{share} (the last: {cause})")
        return False

    def _relieve(self, now: float, began: float) -> bool:
        """Take note of a success after failures."""
        if self.until == 0.0:
            self.failures = 0
            self._troubled = False
            return False
        if began < self._ejected_at:
            return False
        self.until = self.since = 0.0
        self.reason = ""
        self.failures = 0
        self._troubled = False
        self._closed_at = now
        self._forget_counts()
        return True

    def _eject(self, now: float, reason: str) -> bool:
        if self.until == 0.0:
            self.since = now
            if now - self._closed_at >= _LONGEST:
                self.ejections = 0
        self.until = now + min(_LONGEST, _SHORTEST * 2.0 ** min(self.ejections, 16))
        self.ejections += 1
        self.reason = reason
        self._ejected_at = now
        self._forget_counts()
        return True

    def _turn(self, now: float) -> None:
        """Begin a new bucket."""
        if self._answered or self._failed:
            self._buckets.append((self._bucket_ends, self._answered, self._failed))
        self._answered = self._failed = 0
        self._bucket_ends = now + _BUCKET
        self._drop_old(now)

    def _drop_old(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - _WINDOW:
            self._buckets.popleft()

    def _counts(self, now: float) -> tuple[int, int]:
        """Requests of the window that failed, and that were answered."""
        self._drop_old(now)
        return (
            self._failed + sum(failed for _, _, failed in self._buckets),
            self._answered + sum(answered for _, answered, _ in self._buckets),
        )

    def _forget_counts(self) -> None:
        self._buckets.clear()
        self._answered = self._failed = 0


def eligible(candidates: Sequence[Backend], now: float) -> Sequence[Backend]:
    """Those of ``candidates`` that a request may go to at monotonic time ``now``.

    Ejected backends are left out, but never more than half of the candidates: of too many, those
    that would be back first are tried rather than that the request is refused, or that the few
    that are left are overrun. Whoever the health checks have taken out is no candidate at all.

    Args:
        candidates: backends in service that can serve the request; at least one.
        now: monotonic seconds.

    Returns:
        At least half of them, in their order; ``candidates`` itself if none is left out.
    """
    out = [backend for backend in candidates if not backend.breaker.admits(now)]
    if not out:
        return candidates
    excess = len(out) - len(candidates) // 2
    if excess > 0:
        out.sort(key=attrgetter("breaker.until"))
        del out[:excess]
    return [backend for backend in candidates if backend not in out]
