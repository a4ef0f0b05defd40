"""What the ends of exchanges teach about backends: who is overloaded, who is to be left alone.

The only writer of ``overloaded_until`` and ``breaker`` of backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from ollad.backends.breaker import WARY_SECONDS
from ollad.relay.blame import Blame, blame

if TYPE_CHECKING:
    from ollad.backends.backend import Backend
    from ollad.metrics import Telemetry
    from ollad.relay.exchange import Outcome, ReplyHead

__all__ = ["Conduct"]

OVERLOAD_SECONDS: Final = 2.0
"""How long a backend that answered 429 or 503 counts as overloaded, unless it says longer."""

_MAX_RETRY_AFTER: Final = 60.0
_TOO_MANY_REQUESTS: Final = 429
"""The lowest status that can say anything against a backend."""


class Conduct:
    """Keeps the record of every backend.

    Attributes:
        overloaded_until: monotonic time before which some backend may be overloaded.
        wary_until: monotonic time before which ``breaker.eligible`` has to be asked.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
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
                seconds = OVERLOAD_SECONDS if head is None else _retry_after(head)
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


def _retry_after(head: ReplyHead) -> float:
    """Seconds of overload: by Retry-After in its numeric form (RFC 9110 §10.2.3), or the least."""
    for name, value in head.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return min(max(float(value), OVERLOAD_SECONDS), _MAX_RETRY_AFTER)
    return OVERLOAD_SECONDS
