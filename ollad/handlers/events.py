"""``/internal/events``: the state of all backends as server-sent events, for those who watch it.

A follower is told what is true now, never a history: ``Last-Event-ID`` only keeps the ids of a
resumed feed increasing. At most one event waits for a follower; one that stops reading is
disconnected. Followers do not count as traffic, and a draining daemon ends their feeds.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import hdrs, web

import ollad
from ollad.gateway import GATEWAY
from ollad.handlers.internal import endpoint_entries, iso_time

if TYPE_CHECKING:
    from ollad.gateway import Gateway

__all__ = ["Rhythm", "event_frame", "events", "last_event_id"]

_PERIOD: Final = 1.0
"""Seconds between two events while no backend changes its state."""

_LOOK: Final = 0.2
"""Seconds between two looks at the states."""

_PATIENCE: Final = 10.0
"""Seconds for which an event may wait for its follower to read."""

_RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds after which a follower that lost the feed comes back (HTML standard, 9.2.6)."""

_HIGHEST_ID: Final = 2**53
"""Ids stay exact for readers that keep numbers as doubles."""

_HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",
}

States = tuple[bool, tuple[tuple[str, str], ...]]
"""What a change of is told at once: draining, and each backend's name and state."""


async def events(request: web.Request) -> web.StreamResponse:
    """Tell the state of all backends once a second, and at once when one changes.

    Each event is called ``status``; its data is one line of JSON. The feed ends when the daemon
    drains, after an event that says so.
    """
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    try:
        await response.write(_RETRY)
        await _feed(request, response, request.app[GATEWAY])
    except TimeoutError:
        # it does not read: what is buffered for it is given up with the connection
        if request.transport is not None:
            request.transport.abort()
    return response


async def _feed(request: web.Request, response: web.StreamResponse, gateway: Gateway) -> None:
    """Write events until the daemon drains.

    Raises:
        TimeoutError: the follower does not read.
        ConnectionError: it has left.
    """
    rhythm = Rhythm()
    event_id = last_event_id(request.headers.get("Last-Event-ID", ""))
    flushed = gateway.clock()
    while True:
        now, draining = gateway.clock(), gateway.draining
        if not _unsent_bytes(request):
            flushed = now
            if rhythm.due(now, _states(gateway)):
                event_id = max(event_id + 1, round(gateway.wall() * 1000))
                async with asyncio.timeout(_PATIENCE):
                    await response.write(event_frame(event_id, _document(gateway)))
        elif draining or now - flushed > _PATIENCE:
            raise TimeoutError
        if draining:
            return
        await asyncio.sleep(rhythm.pause(now))


def _unsent_bytes(request: web.Request) -> int:
    transport = request.transport
    return 0 if transport is None else transport.get_write_buffer_size()


def _states(gateway: Gateway) -> States:
    pool = gateway.runtime.pool
    return gateway.draining, tuple((backend.name, backend.state) for backend in pool)


def _document(gateway: Gateway) -> dict[str, object]:
    return {
        "time": iso_time(gateway.wall()),
        "version": ollad.__version__,
        "uptime_seconds": round(gateway.clock() - gateway.started, 3),
        "draining": gateway.draining,
        "requests_under_way": len(gateway.traffic),
        "endpoints": endpoint_entries(gateway),
    }


class Rhythm:
    """Decides when one follower is due an event."""

    __slots__ = ("_next", "_states")

    def __init__(self) -> None:
        self._states: States | None = None
        self._next = -math.inf

    def due(self, now: float, states: States) -> bool:
        """Whether to send one at monotonic time ``now``; if so, it counts as sent."""
        if now < self._next and states == self._states:
            return False
        self._states = states
        self._next = now + _PERIOD
        return True

    def pause(self, now: float) -> float:
        """Seconds until the next question is worth asking."""
        return min(_LOOK, max(0.0, self._next - now)) or _LOOK


def event_frame(event_id: int, document: dict[str, object]) -> bytes:
    """One event as bytes (HTML standard, 9.2.5); ``document`` becomes one line of JSON."""
    return b"id: %d\nevent: status\ndata: %s\n\n" % (event_id, orjson.dumps(document))


def last_event_id(header: str) -> int:
    """The id after which a resumed feed goes on; 0 if ``header`` holds none of ours."""
    if not (header.isascii() and header.isdigit() and len(header) <= len(str(_HIGHEST_ID))):
        return 0
    number = int(header)
    return number if number < _HIGHEST_ID else 0
