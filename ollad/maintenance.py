"""Keeping requests away from a backend by an operator's order, and ending that.

What is under way there finishes. The order holds across reloads of the configuration, for as long
as the endpoint keeps its name, and ends with the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.control import Verdict

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ollad.backends.pool import Pool
    from ollad.gateway import Gateway

__all__ = ["carry_over", "drain", "enable"]


def drain(gateway: Gateway, name: str, logger: FilteringBoundLogger) -> Verdict:
    """Send no new requests to the backend called ``name``.

    Returns:
        How many requests are under way there; a refusal if there is no such backend.
    """
    pool = gateway.runtime.pool
    backend = pool.get(name)
    if backend is None:
        return _unknown(name, pool)
    if backend.drained_at is None:
        backend.drained_at = gateway.wall()
        logger.info("backend draining", backend=name, in_flight=backend.in_flight)
    messages = [f"{name} gets no new requests; {backend.in_flight} under way there"]
    if not pool.routable():
        messages.append("no backend takes requests now: clients get 503")
    return Verdict(True, tuple(messages), backend.in_flight)


def enable(gateway: Gateway, name: str, logger: FilteringBoundLogger) -> Verdict:
    """Let the backend called ``name`` have requests again, as far as its health allows.

    Returns:
        The state it is in; a refusal if there is no such backend.
    """
    pool = gateway.runtime.pool
    backend = pool.get(name)
    if backend is None:
        return _unknown(name, pool)
    if backend.drained_at is not None:
        backend.drained_at = None
        logger.info("backend enabled", backend=name, state=backend.state)
    takes = "takes requests" if backend.routable else "takes no requests yet"
    message = f"{name} {takes}: it is {backend.state}, {backend.reason}"
    return Verdict(True, (message,), backend.in_flight)


def carry_over(before: Pool, after: Pool) -> None:
    """Keep drained what was, by name, where a reload has made new backends."""
    for backend in after:
        known = before.get(backend.name)
        if known is not None:
            backend.drained_at = known.drained_at


def _unknown(name: str, pool: Pool) -> Verdict:
    known = ", ".join(backend.name for backend in pool)
    return Verdict(False, (f"there is no endpoint '{name:.100}'; there are: {known}",))
