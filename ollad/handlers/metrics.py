"""``GET /olla/sglang/metrics``, the API page's series, and ``GET /metrics``, ollad's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_async.aio.web import server_stats
from prometheus_client.exposition import choose_encoder

from ollad.gateway import GATEWAY
from ollad.handlers.passthrough import relay_backend_metrics
from ollad.metrics import exposed
from ollad.sglang.page_metrics import PageCollector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

__all__ = ["own_metrics", "page_metrics"]


async def page_metrics(request: web.Request) -> web.StreamResponse:
    """The page's series for every backend, or one backend's own page with ``?endpoint=``."""
    gateway = request.app[GATEWAY]
    pool = gateway.runtime.pool
    name = request.query.get("endpoint")
    if name is not None:
        return await relay_backend_metrics(request, pool.named(name))
    page = _Both(PageCollector(pool), gateway.telemetry.page_registry)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(page), headers={"Content-Type": content_type})


async def own_metrics(request: web.Request) -> web.StreamResponse:
    """What ollad counts and measures of itself."""
    with exposed(request.app[GATEWAY].telemetry):
        return await server_stats(request)


class _Both:
    """Two collectors as one."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            families: Iterable[Metric] = collector.collect()
            yield from families
