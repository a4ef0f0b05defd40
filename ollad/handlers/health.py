"""``GET /olla/sglang/health``: the state of the backends, from the last snapshots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ollad.backends.snapshot import State
from ollad.gateway import GATEWAY
from ollad.responses import json_response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiohttp import web

    from ollad.backends.backend import Backend

__all__ = ["health"]

_NO_NATIVE: Final[Mapping[str, Any]] = {}


async def health(request: web.Request) -> web.StreamResponse:
    """The aggregate and each backend, or one backend with ``?endpoint=``.

    200 while a backend (that backend) takes requests, else 503 with the same body.
    """
    gateway = request.app[GATEWAY]
    pool = gateway.runtime.pool
    now = gateway.clock()
    name = request.query.get("endpoint")
    if name is not None:
        backend = pool.named(name)
        return json_response(_entry(backend, now), 200 if backend.routable else 503)
    routable = pool.routable()
    document = _aggregate(routable)
    document["endpoints"] = [_entry(backend, now) for backend in pool]
    return json_response(document, 200 if routable else 503)


def _entry(backend: Backend, now: float) -> dict[str, Any]:
    """One backend: its name, the page's seven fields, its weight."""
    return {
        "name": backend.name,
        "status": backend.state,
        **_fields(backend),
        "weight": round(backend.weight(now), 4),
    }


def _fields(backend: Backend) -> dict[str, Any]:
    """The page's fields but ``status``; None where nobody can know.

    What the backend's own document says is believed first. A backend that does not answer is
    not spoken for.
    """
    snapshot = backend.snapshot
    engine, load = snapshot.engine, snapshot.load
    if snapshot.state in (State.UNKNOWN, State.DOWN):
        fields: dict[str, Any] = dict.fromkeys(_FIELDS)
        return fields
    ready = snapshot.state.routable  # a model stays loaded while its backend drains
    native = snapshot.native_health or _NO_NATIVE
    derived = {
        "model_loaded": ready and bool(snapshot.models),
        "radix_cache_ready": engine.radix_cache if ready else False,
        "radix_cache_usage_perc": load.radix_usage,
        "num_requests_running": load.running,
        "num_requests_waiting": load.waiting,
        "speculative_decoding_enabled": engine.speculative,
    }
    return {
        field: native[field] if _is(kind, native.get(field)) else derived[field]
        for field, kind in _FIELDS.items()
    }


_FIELDS: Final[Mapping[str, type]] = {
    "model_loaded": bool,
    "radix_cache_ready": bool,
    "radix_cache_usage_perc": float,
    "num_requests_running": int,
    "num_requests_waiting": int,
    "speculative_decoding_enabled": bool,
}


def _is(kind: type, value: object) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, int)


def _aggregate(routable: Sequence[Backend]) -> dict[str, Any]:
    """The page's seven fields over the backends that take requests."""
    each = [_fields(backend) for backend in routable]
    return {
        "status": "healthy" if routable else "unhealthy",
        "model_loaded": any(fields["model_loaded"] for fields in each),
        "radix_cache_ready": _any(fields["radix_cache_ready"] for fields in each),
        "radix_cache_usage_perc": _mean_usage(routable, each),
        "num_requests_running": _sum(fields["num_requests_running"] for fields in each),
        "num_requests_waiting": _sum(fields["num_requests_waiting"] for fields in each),
        "speculative_decoding_enabled": _any(
            fields["speculative_decoding_enabled"] for fields in each
        ),
    }


def _any(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return any(known) if known else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean_usage(backends: Sequence[Backend], each: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean weighted by KV size; unweighted when one of the sizes is not known."""
    known = [
        (fields["radix_cache_usage_perc"], backend.snapshot.load.kv_tokens)
        for backend, fields in zip(backends, each, strict=True)
        if fields["radix_cache_usage_perc"] is not None
    ]
    if not known:
        return None
    weights = [size for _, size in known if size]
    if len(weights) != len(known):
        weights = [1] * len(known)
    total = math.fsum(usage * weight for (usage, _), weight in zip(known, weights, strict=True))
    return round(total / sum(weights), 6)
