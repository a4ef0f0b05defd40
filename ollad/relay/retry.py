"""The retry rule: may this request be sent again, and to whom?

=============================  ======  ==========================================================
what happened                  again?  why
=============================  ======  ==========================================================
bytes reached the client       no      it would get two replies in one
no connection                  yes     nothing was sent
reused connection ended        yes     the server closed it while idle (SGLang: after 5 s)
request was not all written    yes     the backend cannot have understood it
connection ended, and another  yes     the backend died, and the prompt with it (asked by
is refused                             ``Relay.refuses``)
fresh connection ended         no      the prompt may be running, or have run
queue full in first event      yes     the backend said it did not take it
429, 502, 503, 504             yes     the backend, or its proxy, did not serve it
any other status               no      it is the backend's answer
a timeout after connecting     no      the prompt may be running
=============================  ======  ==========================================================

The last attempt's reply is passed on whatever it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.relay.exchange import Fault

if TYPE_CHECKING:
    from ollad.relay.exchange import Outcome

__all__ = ["FREE_FAULTS", "OVERLOADED_STATUSES", "RETRIED_STATUSES", "retry_reason"]

OVERLOADED_STATUSES: Final = frozenset({429, 503})
"""Statuses by which a backend says that it is too busy (RFC 6585 §4, RFC 9110 §15.6.4)."""

RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
"""Statuses with which the request was not served, and may be elsewhere."""

_RETRIED_FAULTS: Final = frozenset(
    {Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.STALE, Fault.UNSENT, Fault.REFUSED}
)

FREE_FAULTS: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.STALE})
"""Faults after which to send again adds to nobody's load."""


def retry_reason(outcome: Outcome) -> str | None:
    """Why the request may be sent again, as a metrics label, or None if it may not."""
    if outcome.committed:
        return None
    if outcome.fault is not None:
        return outcome.fault.value if outcome.fault in _RETRIED_FAULTS else None
    if outcome.head is not None and outcome.head.status in RETRIED_STATUSES:
        return f"status_{outcome.head.status}"
    return None
