"""Whose fault was it? What the end of an exchange says about the backend.

===============================  ==========  ====================================================
how the exchange ended           says        why
===============================  ==========  ====================================================
status 100 to 499, not 429       well        it answered; what it thinks of the request is its own
429, 503                         overload    it is there, and says that it has enough
queue full in first event        overload    likewise
any other 5xx                    failure     it could not do its work
no connection                    failure     nobody is there
ended, broken or cut off early   failure     it let the request down
silent too long                  failure     likewise
reused connection ended          nothing     it closed the connection while that was idle
out of time once it had begun    nothing     the client, or the operator, wanted it faster
client gone                      nothing     nobody knows what would have come
===============================  ==========  ====================================================

The last row never gets here: an exchange whose client has gone has no outcome.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ollad.relay.exchange import Fault
from ollad.relay.retry import OVERLOADED_STATUSES

if TYPE_CHECKING:
    from ollad.relay.exchange import Outcome

__all__ = ["Blame", "blame"]


class Blame(enum.Enum):
    """What an exchange says about its backend."""

    WELL = "well"
    OVERLOAD = "overload"
    FAILURE = "failure"
    NOTHING = "nothing"


def blame(outcome: Outcome) -> Blame:
    """What ``outcome`` says about its backend."""
    match outcome.fault:
        case None:
            return _by_status(outcome.head.status if outcome.head else 0)
        case Fault.REFUSED:
            return Blame.OVERLOAD
        case Fault.STALE:
            return Blame.NOTHING
        case Fault.TOTAL_TIMEOUT if outcome.first_byte is not None:
            return Blame.NOTHING
        case _:
            return Blame.FAILURE


def _by_status(status: int) -> Blame:
    if status in OVERLOADED_STATUSES:
        return Blame.OVERLOAD
    return Blame.WELL if status < 500 else Blame.FAILURE
