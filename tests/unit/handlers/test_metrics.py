from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from ollad.backends.snapshot import Load
from ollad.handlers import metrics
from ollad.handlers.metrics import own_metrics, page_metrics
from tests.unit.builders import make_backend, make_record
from tests.unit.handlers.conftest import make_gateway

if TYPE_CHECKING:
    import pytest

    from ollad.backends.backend import Backend
    from tests.unit.handlers.conftest import Serve

PAGE_TYPES = {
    "sglang_request_duration_seconds": "histogram",
    "sglang_num_requests_running": "gauge",
    "sglang_num_requests_waiting": "gauge",
    "sglang_radix_cache_usage_perc": "gauge",
    "sglang_radix_cache_hit_rate": "gauge",
    "sglang_time_to_first_token_seconds": "histogram",
    "sglang_spec_decode_num_accepted_tokens": "counter",
}
"""The families of the API page; the parser takes ``_total`` off a counter."""


async def test_the_page_has_the_pages_names_types_and_labels(serve: Serve) -> None:
    load = Load(running=5, waiting=2, radix_usage=0.42, hit_rate=0.89, spec_accepted_tokens=12458)
    gateway = make_gateway(make_backend(load=load))
    histograms = gateway.telemetry.page("tiny-llama", "sgl-a")
    histograms.duration.observe(0.2)
    histograms.first_token.observe(0.02)
    response = await (await serve(page_metrics, gateway=gateway)).get("/")
    text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {name: family.type for name, family in families.items()} == PAGE_TYPES
    labels = '{endpoint="sgl-a",model="tiny-llama"}'
    assert f"sglang_spec_decode_num_accepted_tokens_total{labels} 12458.0" in text
    assert f"sglang_request_duration_seconds_count{labels} 1.0" in text
    assert all(family.documentation.count(". ") >= 1 for family in families.values())


async def test_the_page_comes_as_openmetrics_when_asked(serve: Serve) -> None:
    client = await serve(page_metrics, make_backend(load=Load(running=5)))
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response = await client.get("/", headers={"Accept": accept})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    text = await response.text()
    assert text.endswith("# EOF\n")
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name: family.type for family in families} == PAGE_TYPES


async def test_one_backends_own_page_is_relayed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def relay(_request: web.Request, backend: Backend) -> web.StreamResponse:
        return web.Response(text=f"# of {backend.name}\n")

    monkeypatch.setattr(metrics, "relay_backend_metrics", relay)
    client = await serve(page_metrics, make_backend("sgl-a"), make_backend("sgl-b"))
    assert await (await client.get("/", params={"endpoint": "sgl-b"})).text() == "# of sgl-b\n"
    unknown = await client.get("/", params={"endpoint": "sgl-z"})
    assert (unknown.status, (await unknown.json())["error"]["param"]) == (404, "endpoint")


async def test_ollads_own_page_has_its_series_and_the_process_once(serve: Serve) -> None:
    gateway = make_gateway(make_backend())
    gateway.telemetry.request_started("chat")
    gateway.telemetry.request_finished(make_record(served_model="tiny-llama"), 0.1)
    client = await serve(own_metrics, gateway=gateway)
    response = await client.get("/")
    text = await response.text()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert response.status == 200
    assert len(names) == len(set(names))
    assert {"process_cpu_seconds", "python_info", "ollad_requests"} <= set(names)
    assert 'ollad_requests_total{code="200",family="chat",model="tiny-llama"} 1.0' in text
    assert 'ollad_backend_up{backend="sgl-a"} 1.0' in text
    assert "sglang_" not in text


async def test_a_scrape_leaves_nothing_in_the_global_registry(serve: Serve) -> None:
    client = await serve(own_metrics, make_backend())
    await client.get("/")
    assert not [f.name for f in REGISTRY.collect() if f.name.startswith("ollad")]
