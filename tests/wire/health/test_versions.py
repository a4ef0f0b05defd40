"""What is learned about each generation of SGLang, and what it is not asked again."""

from __future__ import annotations

import pytest

from ollad.backends.snapshot import State
from tests.wire.health import fake
from tests.wire.health.watch import endpoint, watching

GIB = 1 << 30


async def test_0_5_23_tells_everything_in_the_first_round() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        seen = watch.snapshot()
        assert seen.state is State.HEALTHY
        assert seen.model_ids == ("tiny-llama",)
        assert (seen.engine.version, seen.engine.radix_cache) == ("0.5.23", True)
        assert (seen.engine.speculative, seen.engine.cache_report) == (False, True)
        assert seen.engine.image_understanding is False
        assert seen.engine.native_routes == frozenset()
        assert seen.engine.model_info == fake.MODEL_INFO
        assert (seen.load.running, seen.load.waiting, seen.load.kv_tokens) == (1, 2, 1000)
        assert (seen.load.token_usage, seen.load.radix_usage) == (0.5, 0.8)
        assert seen.load.hit_rate == pytest.approx(0.75)
        assert seen.load.kv_bytes == 2 * GIB
        assert seen.load.spec_accepted_tokens is None
        assert seen.weight == 1.0
        assert "SECRET-KEY" not in repr(seen)


async def test_0_4_6_is_read_by_its_old_routes_and_metrics() -> None:
    async with fake.serving(fake.sglang_0_4_6()) as server, watching(endpoint(server.url)) as watch:
        await watch.monitor.wait_first_round()
        seen = watch.snapshot()
        assert seen.state is State.HEALTHY
        assert (seen.engine.version, seen.engine.generation) == ("0.4.6.post5", True)
        assert (seen.load.running, seen.load.waiting) == (3, 1)
        assert (seen.load.token_usage, seen.load.radix_usage) == (0.25, 0.25)
        assert seen.engine.image_understanding is None


async def test_0_5_9_without_metrics_is_read_by_its_loads() -> None:
    async with fake.serving(fake.sglang_0_5_9()) as server, watching(endpoint(server.url)) as watch:
        await watch.monitor.wait_first_round()
        seen = watch.snapshot()
        assert (seen.load.running, seen.load.waiting, seen.load.hit_rate) == (1, 2, None)
        assert seen.load.radix_usage == 0.5


async def test_where_loads_are_broken_the_older_route_tells() -> None:
    routes = fake.sglang_0_5_9() | {"/v1/loads": fake.status(500)}
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        seen = await watch.until(lambda s: s.load.running is not None)
        assert (seen.load.running, seen.load.waiting) == (5, 4)


async def test_a_route_that_is_missing_is_not_asked_for_again() -> None:
    async with fake.serving(fake.sglang_0_4_6()) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(4)
        for path in ("/ready", "/v1/loads", "/server_info", "/model_info"):
            assert server.asked[path] <= 1, path
        assert server.asked["/v1/models"] >= 4
        assert server.asked["/metrics"] >= 4


async def test_what_a_server_is_is_asked_once_a_minute_and_its_routes_once() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.rounds(5)
        assert [server.asked[p] for p in ("/server_info", "/model_info", "/openapi.json")] == [
            1
        ] * 3
        assert server.asked["/get_server_info"] == 0
        assert server.asked["/health"] == 1


async def test_a_404_of_everything_teaches_nothing() -> None:
    async with fake.serving({}) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(2)
        assert watch.snapshot().reason == "404 on /v1/models"
        server.routes = fake.sglang_0_5_23()
        seen = await watch.until(lambda s: s.state is State.HEALTHY)
        assert seen.load.radix_usage == 0.8
        assert server.asked["/ready"] > 2


async def test_a_server_that_speaks_the_page_is_believed() -> None:
    health = {"status": "healthy", "num_requests_running": 7, "radix_cache_usage_perc": 0.35}
    routes = fake.sglang_0_5_23() | {
        "/health": fake.document(health),
        "/metrics": fake.raw("sglang_num_requests_waiting 6\nsglang:num_queue_reqs 1\n"),
        "/openapi.json": fake.document({"paths": {"/batch": {"post": {}}}}),
    }
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        seen = await watch.until(lambda s: s.native_health is not None)
        assert seen.native_health == health
        assert seen.native_metrics == {"sglang_num_requests_waiting": 6.0}
        assert (seen.load.running, seen.load.waiting, seen.load.radix_usage) == (7, 6, 0.35)
        assert watch.backend().native("/batch") is True
        assert watch.backend().native("/extend") is False
        before = server.asked["/health"]
        await watch.rounds(4)
        assert server.asked["/health"] > before


async def test_every_probe_carries_the_endpoints_headers_and_asks_for_plain_metrics() -> None:
    headers = {"authorization": "Bearer k", "accept": "text/html"}
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url, headers=headers)) as watch,
    ):
        await watch.rounds(3)
        assert {h["authorization"] for h in server.headers.values()} == {"Bearer k"}
        assert server.headers["/metrics"].getall("Accept") == ["text/plain"]


@pytest.mark.parametrize("body", ["", "{", "[[[[", '{"data": 3}', "null", "\x00"])
async def test_garbage_takes_nothing_down_but_what_depends_on_it(body: str) -> None:
    garbage = fake.raw(body)
    routes = dict.fromkeys(fake.sglang_0_5_23(), garbage) | {
        "/v1/models": fake.document(fake.MODELS)
    }
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(2)
        assert watch.snapshot().state is State.HEALTHY
        assert watch.snapshot().load.running is None
        server.routes["/v1/models"] = garbage
        await watch.rounds(3)
        assert watch.snapshot().model_ids == ("tiny-llama",)


async def test_a_backend_that_lists_no_model_is_out() -> None:
    routes = fake.sglang_0_5_23() | {"/v1/models": fake.document({"data": []})}
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(1)
        assert watch.snapshot().reason == "/v1/models lists no model"
        assert not watch.backend().routable
