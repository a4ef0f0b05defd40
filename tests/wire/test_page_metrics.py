"""``GET /olla/sglang/metrics`` on the wire."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving, sse
from tests.wire.raw import exchange, request, until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

METRICS = PREFIX + "/metrics"
GAUGES = (
    "sglang_num_requests_running",
    "sglang_num_requests_waiting",
    "sglang_radix_cache_usage_perc",
    "sglang_radix_cache_hit_rate",
)
HISTOGRAMS = ("sglang_request_duration_seconds", "sglang_time_to_first_token_seconds")
COUNTER = "sglang_spec_decode_num_accepted_tokens"


async def samples(ollad: Running) -> dict[tuple[str, str, str], float]:
    """The page's samples without buckets, by name, model and endpoint."""
    _, body = await ollad.get(METRICS)
    return {
        (one.name, one.labels["model"], one.labels["endpoint"]): one.value
        for family in text_string_to_metric_families(body.decode())
        for one in family.samples
        if not one.name.endswith(("_bucket", "_created"))
    }


async def test_every_series_of_the_page_is_there_and_says_where_it_comes_from(
    ollad: Running,
) -> None:
    response, body = await ollad.get(METRICS)
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    families = {one.name: one for one in text_string_to_metric_families(body.decode())}
    assert set(families) >= {*GAUGES, *HISTOGRAMS, COUNTER}
    assert {families[name].type for name in GAUGES} == {"gauge"}
    assert {families[name].type for name in HISTOGRAMS} == {"histogram"}
    assert families[COUNTER].type == "counter"
    assert all(len(one.documentation) > 30 for one in families.values())
    assert all(name.startswith("sglang_") for name in families)


async def test_figures_are_those_of_each_backend(fake: FakeSGLang) -> None:
    other = FakeSGLang(("big/model",))
    other.load.update(num_running_reqs=9, num_waiting_reqs=0)
    async with serving(other), running(endpoint(fake), endpoint(other, "two")) as ollad:
        found = await samples(ollad)
    assert found["sglang_num_requests_running", "tiny", "one"] == 2
    assert found["sglang_num_requests_waiting", "tiny", "one"] == 1
    assert found["sglang_radix_cache_usage_perc", "tiny", "one"] == 0.35
    assert found["sglang_num_requests_running", "big/model", "two"] == 9


async def test_histograms_count_what_went_through(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/v1/completions"] = [
        reply({"choices": []}),
        sse({"choices": []}),
        reply({"object": "error"}, "400 Bad Request"),
    ]
    for stream in (False, True, False):
        await ollad.post("/v1/completions", {"model": "tiny", "stream": stream})
    found = await samples(ollad)
    assert found["sglang_request_duration_seconds_count", "tiny", "one"] == 2
    assert found["sglang_time_to_first_token_seconds_count", "tiny", "one"] == 1
    _, body = await ollad.get(METRICS)
    for bound in ("0.1", "0.5", "1.0"):
        assert re.search(
            rb'sglang_request_duration_seconds_bucket\{.*le="%s".*\} 2\.0' % bound.encode(), body
        )


async def test_a_prometheus_that_asks_for_openmetrics_gets_it(ollad: Running) -> None:
    response, body = await ollad.get(
        METRICS, headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    families = open_metrics(body.decode())  # type: ignore[no-untyped-call]
    assert {one.name for one in families} >= {*GAUGES, *HISTOGRAMS, COUNTER}


async def test_a_backend_that_does_not_answer_has_no_figures(
    fake: FakeSGLang, ollad: Running
) -> None:
    await fake.stop()
    await until(lambda: not ollad.gateway.runtime.pool.routable())
    assert not {name for name, _, where in await samples(ollad) if where == "one"} & {*GAUGES}


async def test_a_backends_own_series_of_the_page_are_believed() -> None:
    fake = FakeSGLang()
    fake.metrics += (
        'sglang_num_requests_running{model="tiny"} 77\n'
        'sglang_radix_cache_hit_rate{model="tiny"} 0.89\n'
        'sglang_spec_decode_num_accepted_tokens_total{model="tiny"} 12458\n'
    )
    async with serving(fake), running(endpoint(fake)) as ollad:
        found = await samples(ollad)
    assert found["sglang_num_requests_running", "tiny", "one"] == 77
    assert found["sglang_radix_cache_hit_rate", "tiny", "one"] == 0.89
    assert found["sglang_spec_decode_num_accepted_tokens_total", "tiny", "one"] == 12458
    assert found["sglang_num_requests_waiting", "tiny", "one"] == 1


@pytest.mark.parametrize("size", [100, 2 * 1024 * 1024])
async def test_a_backends_own_page_is_untouched(
    size: int, fake: FakeSGLang, ollad: Running
) -> None:
    own = b"# HELP sglang:x \xc3\xa9\nsglang:x 1\n" + b"# " + b"x" * size + b"\n"
    fake.scripts["/metrics"] = reply(own, content_type="text/plain; version=0.0.4; charset=utf-8")
    data = request(f"GET {METRICS}?endpoint=one", "Accept: text/plain", "Accept-Encoding: gzip")
    answer = await exchange(ollad.port, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    assert b"X-Olla-Endpoint: one" in head
    assert body == own
    asked = next(one for one in fake.requests if one.header("X-Olla-Request-ID"))
    assert asked.target == "/metrics"
    assert asked.header("Accept") == "text/plain"
    assert asked.header("Accept-Encoding") == "gzip"


async def test_a_page_of_an_endpoint_that_is_not_there_is_404_or_503(
    fake: FakeSGLang, ollad: Running
) -> None:
    response, body = await ollad.get(METRICS + "?endpoint=none")
    assert response.status == 404
    assert b"endpoint_not_found" in body
    await fake.stop()
    await until(lambda: not ollad.gateway.runtime.pool.routable())
    response, body = await ollad.get(METRICS + "?endpoint=one")
    assert response.status == 503
    assert b"Retry-After" not in body
    assert "Retry-After" in response.headers
