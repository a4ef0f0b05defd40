"""``GET /olla/sglang/health`` on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

HEALTH = PREFIX + "/health"
PAGE = {
    "status": "healthy",
    "model_loaded": True,
    "radix_cache_ready": True,
    "radix_cache_usage_perc": 0.35,
    "num_requests_running": 2,
    "num_requests_waiting": 1,
    "speculative_decoding_enabled": False,
}


async def asked(ollad: Running, query: str = "") -> tuple[int, Any]:
    """Status and document."""
    response, body = await ollad.get(HEALTH + query)
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.headers["X-Olla-Backend-Type"] == "sglang"
    return response.status, json.loads(body)


async def test_the_pages_seven_fields_come_first(ollad: Running) -> None:
    status, document = await asked(ollad)
    assert status == 200
    assert list(document) == [*PAGE, "endpoints"]
    assert {name: document[name] for name in PAGE} == PAGE
    assert document["endpoints"] == [{"name": "one", **PAGE, "weight": 1.0}]


async def test_counts_are_summed_and_usage_is_a_mean_by_size(fake: FakeSGLang) -> None:
    big = FakeSGLang()
    big.load.update(num_running_reqs=5, num_waiting_reqs=0, max_total_num_tokens=60000)
    big.metrics = (
        "sglang:kv_evictable_tokens 40000\nsglang:kv_used_tokens 5000\n"
        "sglang:kv_available_tokens 15000\nsglang:max_total_num_tokens 60000\n"
    )
    big.server_info["speculative_algorithm"] = "EAGLE"
    async with serving(big), running(endpoint(fake), endpoint(big, "big")) as ollad:
        status, document = await asked(ollad)
    assert status == 200
    assert document["num_requests_running"] == 7
    assert document["num_requests_waiting"] == 1
    assert document["radix_cache_usage_perc"] == (7000 + 45000) / 80000
    assert document["speculative_decoding_enabled"] is True
    assert [one["name"] for one in document["endpoints"]] == ["one", "big"]
    assert [one["num_requests_running"] for one in document["endpoints"]] == [2, 5]


async def test_one_backend_can_be_asked_for(ollad: Running) -> None:
    assert await asked(ollad, "?endpoint=one") == (200, {"name": "one", **PAGE, "weight": 1.0})
    status, document = await asked(ollad, "?endpoint=none")
    assert status == 404
    assert document["error"]["code"] == "endpoint_not_found"
    assert "one" in document["error"]["message"]


async def test_the_rest_is_healthy_when_one_backend_is_down(fake: FakeSGLang) -> None:
    other = FakeSGLang()
    async with serving(other), running(endpoint(fake), endpoint(other, "two")) as ollad:
        await other.stop()
        await until(lambda: len(ollad.gateway.runtime.pool.routable()) == 1)
        status, document = await asked(ollad)
        assert status == 200
        assert {name: document[name] for name in PAGE} == PAGE
        down = document["endpoints"][1]
        assert down == {
            "name": "two",
            **dict.fromkeys(PAGE),
            "status": "down",
            "weight": 0.0,
        }
        assert await asked(ollad, "?endpoint=two") == (503, down)


async def test_it_is_503_with_the_same_body_when_no_backend_takes_requests(
    fake: FakeSGLang, ollad: Running
) -> None:
    await fake.stop()
    await until(lambda: not ollad.gateway.runtime.pool.routable())
    status, document = await asked(ollad)
    assert status == 503
    assert list(document) == [*PAGE, "endpoints"]
    assert document["status"] == "unhealthy"
    assert document["model_loaded"] is False
    assert document["radix_cache_usage_perc"] is None


async def test_what_nobody_knows_is_null() -> None:
    fake = FakeSGLang()
    fake.scripts = {
        path: reply({"detail": "Not Found"}, "404 Not Found")
        for path in ("/v1/loads", "/get_load", "/metrics", "/server_info", "/get_server_info")
    }
    async with serving(fake), running(endpoint(fake)) as ollad:
        status, document = await asked(ollad)
    assert status == 200
    assert document["status"] == "healthy"
    assert document["model_loaded"] is True
    for field in list(PAGE)[2:]:
        assert document[field] is None, field


async def test_no_backend_is_asked_because_a_client_asks() -> None:
    fake = FakeSGLang()
    async with serving(fake), running(endpoint(fake, check_interval=3600.0)) as ollad:
        before = dict(fake.probes)
        for _ in range(5):
            await asked(ollad)
        assert fake.probes == before
        assert fake.requests == []


async def test_a_backend_that_speaks_the_page_is_believed() -> None:
    fake = FakeSGLang()
    own = {
        "status": "healthy",
        "model_loaded": True,
        "radix_cache_ready": False,
        "radix_cache_usage_perc": 0.9,
        "num_requests_running": 33,
        "speculative_decoding_enabled": True,
    }
    fake.scripts["/health"] = reply(own)
    async with serving(fake), running(endpoint(fake)) as ollad:
        await until(
            lambda: next(iter(ollad.gateway.runtime.pool)).snapshot.native_health is not None
        )
        _, document = await asked(ollad)
    assert document["endpoints"][0] == {
        "name": "one",
        **own,
        "num_requests_waiting": 1,
        "weight": 1.0,
    }
    assert document["num_requests_running"] == 33
    assert document["radix_cache_usage_perc"] == 0.9
