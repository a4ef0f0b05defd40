"""What every handler works with: the running daemon, seen from a request.

``Runtime`` is what a new configuration replaces, as one value in one assignment; a request takes
it once and keeps it to its end. The rest lives as long as the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ollad.auth import Gate
from ollad.config.schema import Auth
from ollad.cors import Cors
from ollad.headers import TrustedProxies
from ollad.limits import BodyBudget
from ollad.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollad.backends.pool import Pool
    from ollad.config.schema import Config
    from ollad.conversations import ConversationStore
    from ollad.dispatch import Dispatcher
    from ollad.metrics import Telemetry

__all__ = ["GATEWAY", "Gateway", "Runtime", "make_runtime"]

_OPEN_GATE: Final = Gate(Auth(), 0.0)
_NO_ORIGINS: Final = Cors(())


@dataclass(frozen=True, slots=True)
class Runtime:
    """A configuration and what is made from it.

    Attributes:
        config: the configuration.
        pool: the backends.
        trusted_proxies: whose ``X-Forwarded-*`` are believed.
        gate: knows the clients' keys.
        cors: knows which web pages may call.
        guarded: whether there are keys or such pages, so that requests have to be let in.
    """

    config: Config
    pool: Pool
    trusted_proxies: TrustedProxies
    gate: Gate = _OPEN_GATE
    cors: Cors = _NO_ORIGINS
    guarded: bool = False


def make_runtime(config: Config, pool: Pool, now: float, before: Runtime | None = None) -> Runtime:
    """What requests are to work with.

    Args:
        config: the configuration.
        pool: the backends made from it.
        now: monotonic seconds.
        before: what they work with so far; what keys have used is carried over from it.
    """
    gate = Gate(config.auth, now, None if before is None else before.gate)
    cors = Cors(config.server.cors_origins)
    return Runtime(
        config,
        pool,
        TrustedProxies(config.server.trusted_proxies),
        gate,
        cors,
        guarded=gate.closed or cors.enabled,
    )


@dataclass(slots=True)
class Gateway:
    """The daemon as handlers see it.

    Attributes:
        runtime: the present configuration; only the daemon assigns it.
        dispatcher: sends calls to backends.
        telemetry: counts and measures.
        conversations: what ``/extend`` continues.
        clock: monotonic seconds.
        wall: Unix seconds.
        draining: set once the daemon stops taking requests.
        handing_over: set while it drains but still serves what open connections bring.
        traffic: requests to the API whose answer has not ended.
        refresh_models: returns once backends have been asked which models they serve, now or a
            moment ago.
        bodies: bounds the bytes of request bodies held at once.
        started: when it was made, by ``clock``.
    """

    runtime: Runtime
    dispatcher: Dispatcher
    telemetry: Telemetry
    conversations: ConversationStore
    clock: Callable[[], float]
    wall: Callable[[], float]
    refresh_models: Callable[[], Awaitable[None]]
    draining: bool = False
    handing_over: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    bodies: BodyBudget = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self.bodies = BodyBudget(self.runtime.config.server.max_buffered_bytes)


GATEWAY: Final = web.AppKey("gateway", Gateway)
"""Where the application carries the gateway."""
