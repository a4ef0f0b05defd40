"""Outside the prefix: whether ollad lives, is ready, and what it sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

import ollad as package
from ollad.config.schema import Routing
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running


async def asked(ollad: Running, path: str) -> tuple[int, Any]:
    """Status and document."""
    response, body = await ollad.get(path)
    assert response.headers["Content-Type"].startswith("application/json")
    assert "X-Olla-Request-ID" in response.headers
    return response.status, json.loads(body)


async def test_it_lives_and_is_ready_while_a_backend_takes_requests(
    fake: FakeSGLang, ollad: Running
) -> None:
    assert await asked(ollad, "/internal/health") == (200, {"status": "alive"})
    assert await asked(ollad, "/internal/ready") == (200, {"status": "ready"})
    await fake.stop()
    await until(lambda: not ollad.gateway.runtime.pool.routable())
    assert await asked(ollad, "/internal/health") == (200, {"status": "alive"})
    status, document = await asked(ollad, "/internal/ready")
    assert status == 503
    assert document["reason"] == "no backend takes requests: one is down"


async def test_it_is_not_ready_while_it_drains(ollad: Running) -> None:
    ollad.gateway.draining = True
    status, document = await asked(ollad, "/internal/ready")
    assert status == 503
    assert "shutting down" in document["reason"]
    assert (await asked(ollad, "/internal/health"))[0] == 200
    response, body = await ollad.post("/v1/completions", {"model": "tiny"})
    assert response.status == 503
    assert response.headers["Connection"] == "close"
    assert "Retry-After" in response.headers
    assert json.loads(body)["error"]["code"] == "draining"


async def test_its_version_is_told(ollad: Running) -> None:
    status, document = await asked(ollad, "/version")
    assert status == 200
    assert document["version"] == package.__version__


async def test_status_shows_backends_models_and_weights(fake: FakeSGLang) -> None:
    other = FakeSGLang(("big",))
    routing = Routing(model_aliases={"small": "tiny"})
    async with (
        serving(other),
        running(
            endpoint(fake, headers={"Authorization": "Bearer endpoint-secret"}, priority=50),
            endpoint(other, "two", priority=100),
            routing=routing,
        ) as ollad,
    ):
        _, body = await ollad.get("/internal/status")
        _, endpoints = await asked(ollad, "/internal/status/endpoints")
        _, models = await asked(ollad, "/internal/status/models")
        document = json.loads(body)
    assert b"secret" not in body
    assert document["ready"] is True
    one, two = document["endpoints"]
    assert [one["name"], one["state"], one["weight"]] == ["one", "healthy", 0.5]
    assert [two["name"], two["models"], two["weight"]] == ["two", ["big"], 1.0]
    assert one["engine_version"] == "0.5.23"
    assert one["load"]["running"] == 2
    assert [entry["name"] for entry in endpoints["endpoints"]] == ["one", "two"]
    assert models["models"] == [
        {"id": "big", "endpoints": ["two"], "aliases": []},
        {"id": "tiny", "endpoints": ["one"], "aliases": ["small"]},
    ]


async def test_own_metrics_are_an_exposition_of_ollad_only(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    await ollad.post("/v1/completions", {"model": "tiny"})
    response, body = await ollad.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = {one.name: one for one in text_string_to_metric_families(body.decode())}
    assert not [name for name in families if name.startswith("sglang")]
    counted = {
        (one.labels["family"], one.labels["model"], one.labels["code"]): one.value
        for one in families["ollad_requests"].samples
        if one.name == "ollad_requests_total"
    }
    assert counted["completions", "tiny", "200"] == 1


async def test_what_a_client_calls_a_model_makes_no_series(ollad: Running) -> None:
    for name in ("a", "b", "c"):
        await ollad.post("/v1/completions", {"model": name})
    _, body = await ollad.get("/metrics")
    families = {one.name: one for one in text_string_to_metric_families(body.decode())}
    models = {one.labels["model"] for one in families["ollad_requests"].samples}
    assert not models & {"a", "b", "c"}


async def test_outside_the_prefix_there_is_nothing_else(ollad: Running) -> None:
    for path in ("/", "/health", "/v1/models", "/internal", "/internal/status/x", "/olla"):
        status, document = await asked(ollad, path)
        assert status == 404
        assert document["error"]["code"] == "route_not_found"
