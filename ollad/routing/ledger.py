"""Tokens that one backend was sent and has to prefill yet.

Counted at dispatch and released at the first byte, the end or the failure of a request. One whose
reply comes whole at its end is released when its prefill is estimated to be over, by the rate at
which the backend has prefilled for those that were streamed.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Due", "Ledger"]

_FIRST_RATE: Final = 8000.0
"""Tokens a second that a backend is taken to prefill before it has shown its rate."""
_SLOWEST, _FASTEST = 100.0, 1_000_000.0
_LEARNING: Final = 0.1
"""Weight of one observation of the rate."""
_TELLING: Final = 1024.0
"""Tokens of prefill below which a wait says more of the network than of the backend."""


class Due:
    """One request's tokens, as long as they are to be prefilled.

    Attributes:
        tokens: what is counted for it.
        ahead: tokens due at the backend when it was sent, its own included.
        begun: when it was sent, monotonic seconds.
        over: when its prefill is estimated to be over.
        released: whether they count no longer.
    """

    __slots__ = ("ahead", "begun", "over", "released", "tokens")

    def __init__(self, tokens: float, ahead: float, begun: float, over: float) -> None:
        self.tokens = tokens
        self.ahead = ahead
        self.begun = begun
        self.over = over
        self.released = False


class Ledger:
    """What is due at one backend.

    Attributes:
        rate: tokens a second that it prefills, learnt.
        waiting: requests that count.
    """

    __slots__ = ("_busy_until", "_polled", "_polled_at", "_silent", "_tokens", "rate", "waiting")

    def __init__(self) -> None:
        self.rate = _FIRST_RATE
        self._tokens = 0.0
        self.waiting = 0
        self._busy_until = 0.0
        self._silent: deque[Due] = deque()
        self._polled = 0.0
        self._polled_at = 0.0

    @property
    def tokens(self) -> float:
        """What is due by the present count, not looking at the clock."""
        return self._tokens

    def pending(self, now: float) -> float:
        """Tokens due at monotonic ``now``."""
        silent = self._silent
        while silent:
            due = silent[0]
            if not due.released:
                if due.over > now:
                    break
                self._release(due)
            silent.popleft()
        if self._polled:
            polled = self._polled - self.rate * (now - self._polled_at)
            if polled > self._tokens:
                return polled
            if polled <= 0:
                self._polled = 0.0
        return self._tokens

    def begin(self, tokens: float, now: float, silent: bool) -> Due:
        """Count ``tokens`` of a request sent at ``now``.

        Args:
            tokens: what the backend will have to prefill for it.
            now: monotonic seconds.
            silent: whether nothing but the estimate will say when that is done.
        """
        ahead = self.pending(now) + tokens
        over = self._busy_until = max(now, self._busy_until) + tokens / self.rate
        due = Due(tokens, ahead, now, over)
        self._tokens += tokens
        self.waiting += 1
        if silent:
            self._silent.append(due)
        return due

    def prefilled(self, due: Due, now: float) -> None:
        """The first byte came: ``due`` and all that was ahead of it was prefilled by ``now``."""
        self.end(due, now, answered=True)

    def end(self, due: Due, now: float, answered: bool) -> None:
        """Nothing is due for it any more.

        Args:
            due: what was counted.
            now: monotonic seconds.
            answered: whether the backend has done all of it, so that one that was done before it
                was expected shows a faster backend.
        """
        if due.released:
            return
        self._release(due)
        ahead = due.ahead
        if answered and ahead >= _TELLING and now > due.begun:
            self._learn(ahead / (now - due.begun))

    def _release(self, due: Due) -> None:
        due.released = True
        self.waiting = waiting = self.waiting - 1
        # nothing is due when nobody waits, whatever rounding has left
        left = self._tokens - due.tokens
        self._tokens = left if waiting and left > 0.0 else 0.0

    def _learn(self, rate: float) -> None:
        self.rate += _LEARNING * (min(_FASTEST, max(_SLOWEST, rate)) - self.rate)

    def correct(self, waiting: float, now: float) -> None:
        """The backend said that ``waiting`` uncached tokens are queued there.

        That counts while it is more than what is known here, as when others send there too, and
        shrinks at the backend's rate: it is old news already.
        """
        self._polled, self._polled_at = waiting, now
