"""Whether the server lives, and how it is: health, load and metrics."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ollad.simulator.exposition import families, kv_gigabytes, render
from ollad.simulator.refusals import INTERNAL, Refusal, invalid, problem
from ollad.simulator.replies import PROMETHEUS, empty, json_reply
from ollad.simulator.service import VERSION, Life

if TYPE_CHECKING:
    from ollad.simulator.service import Service

__all__ = ["health", "loads", "metrics", "ready", "root"]

_SECTIONS: Final = frozenset({"all", "core", "disagg", "lora", "memory", "queues", "spec"})
_NO_TRANSFERS: Final[dict[str, Any]] = {
    "mode": "null",
    "prefill_bootstrap_queue_reqs": 0,
    "prefill_inflight_queue_reqs": 0,
    "decode_prealloc_queue_reqs": 0,
    "decode_transfer_queue_reqs": 0,
    "decode_retracted_queue_reqs": 0,
    "kv_transfer_speed_gb_s": 0.0,
    "kv_transfer_latency_ms": 0.0,
}
_OPENMETRICS: Final = (
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
)
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


async def health(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/health``: a generation of one token, which is polled for once a second."""
    if service.life is not Life.READY:
        return empty(503)
    service.driver.advance()
    service.engine.probe()
    await service.sleep(service.options.health_seconds)
    return empty(200)


async def ready(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/ready`` and ``/ping``: at once."""
    return empty(200 if service.life is Life.READY else 503)


async def root(_service: Service, _request: web.Request) -> web.StreamResponse:
    """``/``."""
    return json_reply("SGLang is running")


async def loads(service: Service, request: web.Request) -> web.StreamResponse:
    """``/v1/loads`` (SGLang entrypoints/v1_loads.py)."""
    rank = request.query.get("dp_rank", "0")
    if not rank.lstrip("-").isdigit():
        message = "Input should be a valid integer, unable to parse string as an integer"
        wrong = problem("int_parsing", ("query", "dp_rank"), message, rank)
        raise invalid("/v1/loads", "GET", [wrong])
    include = {part.strip() for part in request.query.get("include", "all").split(",")}
    if not include <= _SECTIONS:
        # The real one answers 500: its ValueError is caught by nobody.
        raise Refusal(500, INTERNAL.encode(), "text/plain; charset=utf-8")
    ranks = [_load(service, include)] if int(rank) == 0 else []
    if request.query.get("format") == "prometheus":
        return web.Response(body=_gauges(ranks).encode(), headers={"content-type": _TEXT})
    return json_reply(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "version": VERSION,
            "accelerator": None,
            "num_accelerators": 1,
            "loads": ranks,
        }
    )


def _load(service: Service, include: set[str]) -> dict[str, Any]:
    now = service.driver.advance()
    usage = service.engine.usage(now)
    capacity = service.engine.cache.capacity
    report: dict[str, Any] = {
        "timestamp": service.wall(now),
        "dp_rank": 0,
        "num_running_reqs": usage.running,
        "num_waiting_reqs": usage.waiting,
        "num_waiting_uncached_tokens": usage.waiting_uncached,
        "num_used_tokens": usage.used,
        "num_total_tokens": usage.used + usage.waiting_uncached,
        "num_active_tokens": usage.used + usage.waiting_uncached,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": capacity,
        "max_running_requests": service.options.engine.max_running,
        "token_usage": round(usage.used / capacity, 4),
        "gen_throughput": round(usage.throughput, 2),
        "cache_hit_rate": round(usage.hit_rate, 4),
        "utilization": 0.0,
        "total_prefill_uncached_tokens": usage.prefilled,
        "total_prefill_busy_us": int(usage.prefill_seconds * 1e6),
        "decode_moments": [0.0] * 6,
    }
    if include & {"all", "memory"}:
        report["memory"] = {
            "weight_gb": 15.1,
            "kv_cache_gb": round(kv_gigabytes(capacity), 3),
            "graph_gb": 0.0,
            "token_capacity": capacity,
        }
    if include & {"all", "disagg"}:
        report["disaggregation"] = _NO_TRANSFERS
    if include & {"all", "queues"}:
        others = dict.fromkeys(("grammar", "paused", "retracted", "prealloc_ready"), 0)
        report["queues"] = {"waiting": usage.waiting, **others}
    return report


def _gauges(ranks: list[dict[str, Any]]) -> str:
    lines = [
        f'# TYPE sglang_{name} gauge\nsglang_{name}{{dp_rank="{rank["dp_rank"]}"}} {value}\n'
        for rank in ranks
        for name, value in rank.items()
        if name != "dp_rank" and isinstance(value, (int, float))
    ]
    return "".join(lines)


async def metrics(service: Service, request: web.Request) -> web.StreamResponse:
    """``/metrics``, and every path that begins so."""
    now = service.driver.advance()
    options = service.options
    openmetrics = "application/openmetrics-text" in request.headers.get("Accept", "")
    page = families(
        options.engine,
        service.engine.usage(now),
        service.statistics,
        model=options.model,
        context_length=options.context_length,
    )
    body = render(page, openmetrics=openmetrics).encode()
    headers = {"Content-Type": _OPENMETRICS if openmetrics else _TEXT}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body)
    response = web.StreamResponse(headers=headers)
    response[PROMETHEUS] = True
    await response.prepare(request)
    await response.write(body)
    await response.write_eof()
    return response
