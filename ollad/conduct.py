"""What the ends of exchanges teach about backends: who is overloaded, who is to be left alone.

The only writer of ``overloaded_until`` and ``breaker`` of backends.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import structlog

from ollad.backends.breaker import WARY_SECONDS
from ollad.relay.blame import Blame, blame

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.backends.backend import Backend
    from ollad.metrics import Telemetry
    from ollad.relay.exchange import Outcome, ReplyHead

__all__ = ["Conduct"]

OVERLOAD_SECONDS: Final = 2.0
"""How long a backend that answered 429 or 503 counts as overloaded, unless it says longer."""

_MAX_RETRY_AFTER: Final = 60.0
_LONGEST_DATE: Final = 64
"""Bytes; the forms of RFC 9110 §5.6.7 have up to 33."""

_TOO_MANY_REQUESTS: Final = 429
"""The lowest status that can say anything against a backend."""


class Conduct:
    """Keeps the record of every backend.

    Args:
        telemetry: counts ejections.
        wall: Unix time, seconds; what backends mean when they name a date.

    Attributes:
        overloaded_until: monotonic time before which some backend may be overloaded.
        wary_until: monotonic time before which ``breaker.eligible`` has to be asked.
    """

    def __init__(self, telemetry: Telemetry, wall: Callable[[], float]) -> None:
        self._telemetry = telemetry
        self._wall = wall
        self.overloaded_until = float("-inf")
        self.wary_until = float("-inf")

    def note(self, backend: Backend, outcome: Outcome, began: float) -> None:
        """Take note of how an exchange with ``backend`` ended that began at monotonic ``began``."""
        now = began + outcome.seconds
        head = outcome.head
        if outcome.fault is None and head is not None and head.status < _TOO_MANY_REQUESTS:
            self.note_success(backend, now, began)
            return
        match blame(outcome):
            case Blame.WELL:
                self.note_success(backend, now, began)
            case Blame.OVERLOAD:
                seconds = OVERLOAD_SECONDS if head is None else _retry_after(head, self._wall())
                backend.overloaded_until = max(backend.overloaded_until, now + seconds)
                self.overloaded_until = max(self.overloaded_until, now + seconds)
            case Blame.FAILURE:
                self._note_failure(backend, outcome, now, began)

    def note_success(self, backend: Backend, now: float, began: float) -> None:
        """A request that was sent at ``began`` goes well at ``now``."""
        if backend.breaker.succeeded(now, began):
            structlog.get_logger().info("backend takes requests again", endpoint=backend.name)

    def _note_failure(self, backend: Backend, outcome: Outcome, now: float, began: float) -> None:
        status = outcome.head.status if outcome.head else 0
        cause = f"status {status}" if outcome.fault is None else outcome.fault.value
        breaker = backend.breaker
        if not breaker.failed(now, began, cause):
            return
        self.wary_until = max(self.wary_until, breaker.until + WARY_SECONDS)
        self._telemetry.ejection(backend.name)
        structlog.get_logger().warning(
            "backend ejected",
            endpoint=backend.name,
            reason=breaker.reason,
            seconds=round(breaker.until - now, 3),
        )


def _retry_after(head: ReplyHead, wall: float) -> float:
    """Seconds of overload at Unix time ``wall``: by Retry-After (RFC 9110 §10.2.3), or least."""
    for name, value in head.headers:
        if name.lower() == b"retry-after":
            seconds = float(value) if value.isdigit() else _seconds_until(value, wall)
            return min(max(seconds, OVERLOAD_SECONDS), _MAX_RETRY_AFTER)
    return OVERLOAD_SECONDS


def _seconds_until(date: bytes, wall: float) -> float:
    """Seconds from Unix time ``wall`` to an HTTP-date (RFC 9110 §5.6.7); 0 if it is none."""
    if len(date) > _LONGEST_DATE:
        return 0.0
    try:
        moment = parsedate_to_datetime(date.decode("latin-1"))
    except (ValueError, TypeError, IndexError, OverflowError):  # by what is wrong with it
        return 0.0
    if moment.tzinfo is None:  # asctime's form names no zone
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() - wall
