"""Outside the prefix: whether ollad lives, is ready, and what it sees."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from yarl import URL

import ollad
from ollad.backends.snapshot import State
from ollad.config.units import format_duration
from ollad.gateway import GATEWAY
from ollad.responses import json_response

if TYPE_CHECKING:
    from aiohttp import web

    from ollad.backends.backend import Backend
    from ollad.backends.breaker import Breaker
    from ollad.config.schema import Health
    from ollad.gateway import Gateway
    from ollad.routing.policy import Standing

__all__ = [
    "alive",
    "endpoint_entries",
    "iso_time",
    "ready",
    "status",
    "status_endpoints",
    "status_models",
    "version",
]


async def alive(_request: web.Request) -> web.StreamResponse:
    """200 as long as the process can answer at all."""
    return json_response({"status": "alive"})


async def ready(request: web.Request) -> web.StreamResponse:
    """200 while ollad takes requests, else 503 that says why not."""
    reason = _unready(request.app[GATEWAY])
    if reason is None:
        return json_response({"status": "ready"})
    return json_response({"status": "not ready", "reason": reason}, 503)


def _unready(gateway: Gateway) -> str | None:
    if gateway.draining:
        return "ollad is shutting down"
    pool = gateway.runtime.pool
    if pool.routable():
        return None
    states = ", ".join(f"{backend.name} is {backend.state}" for backend in pool)
    return f"no backend takes requests: {states}"


async def status(request: web.Request) -> web.StreamResponse:
    """Everything an operator wants to know at a glance; no secret, no header's value."""
    gateway = request.app[GATEWAY]
    reason = _unready(gateway)
    return json_response(
        {
            "version": ollad.__version__,
            "uptime_seconds": round(gateway.clock() - gateway.started, 3),
            "ready": reason is None,
            "reason": reason,
            "draining": gateway.draining,
            "endpoints": endpoint_entries(gateway),
            "models": _models(gateway),
            "routing": {"policy": gateway.runtime.config.routing.policy},
            "queue": _queue(gateway),
        }
    )


async def status_endpoints(request: web.Request) -> web.StreamResponse:
    """The part of the status about backends."""
    return json_response({"endpoints": endpoint_entries(request.app[GATEWAY])})


async def status_models(request: web.Request) -> web.StreamResponse:
    """The part of the status about models."""
    return json_response({"models": _models(request.app[GATEWAY])})


async def version(_request: web.Request) -> web.StreamResponse:
    """What runs here."""
    return json_response({"name": "ollad", "version": ollad.__version__})


def endpoint_entries(gateway: Gateway) -> list[dict[str, Any]]:
    """What there is to say of each backend, in the order of the configuration; plain JSON."""
    now = gateway.clock()
    ahead, health = gateway.wall() - now, gateway.runtime.config.health
    standings = gateway.dispatcher.placement.standings()
    return [
        {
            **_endpoint(backend, now, ahead, health),
            "routing": _books(standings.get(backend.name)),
        }
        for backend in gateway.runtime.pool
    ]


def _books(standing: Standing | None) -> dict[str, Any] | None:
    """What the policy keeps of a backend; None if nothing."""
    if standing is None:
        return None
    return {
        "pending_tokens": round(standing.pending_tokens),
        "index_blocks": standing.index_blocks,
        "index_bytes": standing.index_bytes,
        "index_confidence": round(standing.confidence, 3),
    }


def _queue(gateway: Gateway) -> dict[str, Any]:
    """Who waits for a backend."""
    queue, waiting = gateway.runtime.config.proxy.queue, gateway.dispatcher.placement.room
    return {
        "waiting": waiting.count,
        "by_model": {model or "": count for model, count in waiting.waiting().items()},
        "size": queue.size,
        "timeout": format_duration(queue.timeout),
    }


def _endpoint(backend: Backend, now: float, ahead: float, health: Health) -> dict[str, Any]:
    """One backend at monotonic ``now``, of which wall-clock time is ``ahead`` seconds."""
    snapshot = backend.snapshot
    load, engine = snapshot.load, snapshot.engine
    overloaded = now < backend.overloaded_until
    return {
        "name": backend.name,
        "url": _safe(backend.endpoint.url),
        "type": backend.endpoint.type,
        "state": backend.state,
        "reason": backend.reason,
        "since": iso_time(backend.since or None),
        "returns": _returns(backend, health),
        "ejected": _ejection(backend.breaker, now, ahead),
        "last_check": iso_time(snapshot.checked),
        "failures": snapshot.failures,
        "priority": backend.endpoint.priority,
        "weight": round(backend.weight(now), 4),
        "overloaded": overloaded,
        "overloaded_until": iso_time(backend.overloaded_until + ahead) if overloaded else None,
        "in_flight": backend.in_flight,
        "max_concurrent": backend.endpoint.max_concurrent or None,
        "engine_version": engine.version,
        "models": list(snapshot.model_ids),
        "load": {
            "running": load.running,
            "waiting": load.waiting,
            "waiting_uncached_tokens": load.waiting_uncached_tokens,
            "token_usage": load.token_usage,
            "radix_cache_usage": load.radix_usage,
            "radix_cache_hit_rate": load.hit_rate,
            "kv_tokens": load.kv_tokens,
            "kv_bytes": load.kv_bytes,
        },
        "radix_cache": engine.radix_cache,
        "speculative_decoding": engine.speculative,
        "cache_report": engine.cache_report,
        "image_understanding": engine.image_understanding,
        "generation": engine.generation,
    }


def _returns(backend: Backend, health: Health) -> str | None:
    """What has to happen until a backend has its full share of requests again; None: nothing."""
    if backend.drained_at is not None:
        return "when an operator enables it"
    match backend.snapshot.state:
        case State.HEALTHY:
            return None
        case State.RECOVERING:
            full = iso_time(backend.snapshot.since + health.ramp)
            return f"its share grows until {full}"
        case State.UNKNOWN:
            return "after the first good round of probes"
        case State.STARTING | State.DOWN:
            interval = format_duration(backend.endpoint.check_interval)
            rounds = (
                "a good round of probes"
                if health.rise == 1
                else f"{health.rise} good rounds of probes in a row"
            )
            return f"after {rounds}, one every {interval}"


def _ejection(breaker: Breaker, now: float, ahead: float) -> dict[str, Any] | None:
    """Why requests are kept away from a backend that may pass its probes, since and until when."""
    if breaker.closed:
        return None
    return {
        "reason": breaker.reason,
        "since": iso_time(breaker.since + ahead),
        "until": iso_time(breaker.until + ahead),
        "times": breaker.ejections,
        "on_trial": now >= breaker.until,
    }


def _models(gateway: Gateway) -> list[dict[str, Any]]:
    """Each model, who takes requests for it, and under which other names."""
    pool = gateway.runtime.pool
    aliases = gateway.runtime.config.routing.model_aliases
    return [
        {
            "id": model,
            "endpoints": [backend.name for backend in pool.routable() if backend.serves(model)],
            "aliases": sorted(alias for alias, target in aliases.items() if target == model),
        }
        for model in pool.models()
    ]


def _safe(url: str) -> str:
    """``url`` without user, password, query and fragment, any of which may be a secret."""
    return str(URL(url).with_user(None).with_query(None).with_fragment(None))


def iso_time(seconds: float | None) -> str | None:
    """Unix ``seconds`` as ISO 8601 in UTC, to the millisecond."""
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")
