"""ollad's own metrics: exact, whatever becomes of a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    FakeSGLang,
    chunked,
    event_bytes,
    reply,
    serving,
    sse,
)
from tests.wire.raw import connected, request, until

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        Script,
    )

CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 5},
}

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(ollad: Running) -> Series:
    """Every sample of ``/metrics``."""
    response, body = await ollad.get("/metrics")
    assert response.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    """One sample; 0 if there is none."""
    return series.get((name, frozenset(labels.items())), 0.0)


def total(series: Series, name: str, **labels: str) -> float:
    """The sum over all samples of a name that have these labels."""
    wanted = set(labels.items())
    return sum(v for (n, have), v in series.items() if n == name and wanted <= have)


async def reset(exchange: Exchange) -> None:
    """End the connection instead of answering."""
    exchange.reset()


async def cut_stream(exchange: Exchange) -> None:
    """End the connection in the middle of a stream."""
    await exchange.send(STREAM_HEAD + chunked(event_bytes({"choices": []})))
    exchange.reset()


@pytest.mark.parametrize(
    ("path", "body", "script", "labels"),
    [
        (CHAT_PATH, CHAT, reply({}), ("chat", "tiny", "200")),
        (CHAT_PATH, STREAM, sse({"choices": []}), ("chat", "tiny", "200")),
        (CHAT_PATH, CHAT, reply({}, "400 Bad Request"), ("chat", "tiny", "400")),
        (CHAT_PATH, CHAT, reply({}, "500 Oops"), ("chat", "tiny", "500")),
        (CHAT_PATH, CHAT, reply({}, "599 Odd"), ("chat", "tiny", "500")),
        (CHAT_PATH, CHAT, reset, ("chat", "tiny", "502")),
        (CHAT_PATH, {**CHAT, "model": "made-up"}, reply({}), ("chat", "other", "404")),
        (CHAT_PATH, [], reply({}), ("chat", "other", "400")),
        ("/v1/completions", {"prompt": "x"}, reply({}), ("completions", "tiny", "200")),
        ("/v1/embeddings", {"input": "x"}, reply({}), ("embeddings", "tiny", "200")),
        ("/generate", {"text": "x"}, reply({}), ("generate", "tiny", "200")),
        ("/tokenize", {"prompt": "x"}, reply({}), ("tokenize", "tiny", "200")),
        ("/nothing", {}, reply({}), ("other", "other", "404")),
        ("/health", {}, reply({}), ("health", "other", "405")),
    ],
    ids=str,
)
async def test_a_request_counts_once(
    fake: FakeSGLang,
    ollad: Running,
    path: str,
    body: object,
    script: Script,
    labels: tuple[str, str, str],
) -> None:
    fake.scripts[path] = script
    await ollad.post(path, body)
    family, model, code = labels
    series = await scrape(ollad)
    assert value(series, "ollad_requests_total", family=family, model=model, code=code) == 1
    assert total(series, "ollad_requests_total") == 1
    assert value(series, "ollad_requests_in_flight", family=family) == 0
    assert value(series, "ollad_request_duration_seconds_count", family=family) == 1
    assert value(series, "ollad_backend_requests_in_flight", backend="one") == 0


async def test_a_batch_counts_once_and_each_of_its_items_as_an_attempt(
    fake: FakeSGLang, ollad: Running
) -> None:
    info = {"id": "1", "prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    fake.scripts["/generate"] = reply({"text": "x", "meta_info": info})
    await ollad.post("/batch", {"requests": [{"text": "a"}, {"text": "b"}, {"text": "c"}]})
    series = await scrape(ollad)
    assert total(series, "ollad_requests_total") == 1
    assert (
        value(series, "ollad_upstream_attempts_total", family="batch", backend="one", outcome="ok")
        == 3
    )
    for kind, tokens in (("input", 9), ("output", 6), ("cached", 3)):
        assert value(series, "ollad_tokens_total", backend="one", kind=kind) == tokens


async def test_in_flight_is_seen_while_it_lasts(fake: FakeSGLang, ollad: Running) -> None:
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await reply({})(exchange)

    fake.scripts[CHAT_PATH] = script
    call = asyncio.create_task(ollad.post(CHAT_PATH, CHAT))
    await until(lambda: bool(fake.requests))
    during = await scrape(ollad)
    release.set()
    await call
    after = await scrape(ollad)
    assert value(during, "ollad_requests_in_flight", family="chat") == 1
    assert value(during, "ollad_backend_requests_in_flight", backend="one") == 1
    assert total(during, "ollad_requests_total") == 0
    assert value(after, "ollad_requests_in_flight", family="chat") == 0
    assert value(after, "ollad_backend_requests_in_flight", backend="one") == 0


async def test_in_flight_goes_back_when_a_client_leaves(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.client_gone.wait()

    fake.scripts[CHAT_PATH] = script
    body = json.dumps(CHAT).encode()
    async with connected(ollad.port) as (_, writer):
        writer.write(
            request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
        )
        await until(lambda: bool(fake.requests))
    await until(lambda: not len(ollad.gateway.traffic))
    series = await scrape(ollad)
    assert value(series, "ollad_requests_in_flight", family="chat") == 0
    assert value(series, "ollad_backend_requests_in_flight", backend="one") == 0
    assert value(series, "ollad_requests_total", family="chat", model="tiny", code="499") == 1
    assert (
        value(
            series,
            "ollad_upstream_attempts_total",
            family="chat",
            backend="one",
            outcome="client_gone",
        )
        == 1
    )


async def test_tokens_of_whole_replies_and_streams_are_counted(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = [
        reply({"choices": [], "usage": USAGE}),
        sse({"choices": []}, {"choices": [], "usage": USAGE}),
        sse({"choices": []}),
    ]
    for body in (CHAT, STREAM, STREAM):
        await ollad.post(CHAT_PATH, body)
    series = await scrape(ollad)
    for kind, tokens in (("input", 20), ("output", 8), ("cached", 10)):
        assert value(series, "ollad_tokens_total", backend="one", kind=kind) == tokens


async def test_the_tokens_of_a_native_stream_are_those_of_its_last_event(
    fake: FakeSGLang, ollad: Running
) -> None:
    def event(tokens: int) -> dict[str, object]:
        info = {"id": "1", "prompt_tokens": 7, "completion_tokens": tokens, "cached_tokens": 3}
        return {"text": "x" * tokens, "meta_info": info}

    fake.scripts["/generate"] = sse(*(event(n) for n in range(1, 6)))
    await ollad.post("/generate", {"text": "p", "stream": True})
    series = await scrape(ollad)
    for kind, tokens in (("input", 7), ("output", 5), ("cached", 3)):
        assert value(series, "ollad_tokens_total", backend="one", kind=kind) == tokens


async def test_a_gap_begins_with_an_event_and_not_with_the_end_of_its_chunk(
    fake: FakeSGLang, ollad: Running
) -> None:
    event = chunked(b"data: {}\n\n")

    async def cut(exchange: Exchange) -> None:
        for piece in (STREAM_HEAD + event, event, event[:-2], b"\r\n", event, b"0\r\n\r\n"):
            await exchange.send(piece)
            await asyncio.sleep(0.05)

    fake.scripts[CHAT_PATH] = cut
    await ollad.post(CHAT_PATH, STREAM)
    series = await scrape(ollad)
    assert value(series, "ollad_stream_chunk_gap_seconds_count", family="chat") == 3
    assert value(series, "ollad_stream_chunk_gap_seconds_sum", family="chat") >= 0.195


async def test_gaps_are_those_between_events(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = sse(*[{"choices": []}] * 4, pause=0.05)
    await ollad.post(CHAT_PATH, STREAM)
    series = await scrape(ollad)
    assert value(series, "ollad_stream_chunk_gap_seconds_count", family="chat") == 4
    assert value(series, "ollad_stream_chunk_gap_seconds_sum", family="chat") >= 0.15
    fake.scripts[CHAT_PATH] = reply({})
    await ollad.post(CHAT_PATH, CHAT)
    assert value(await scrape(ollad), "ollad_stream_chunk_gap_seconds_count", family="chat") == 4


async def test_first_bytes_are_timed_by_backend(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = [reply({}), sse({"choices": []}), reset]
    for body in (CHAT, STREAM, CHAT):
        await ollad.post(CHAT_PATH, body)
    series = await scrape(ollad)
    name = "ollad_upstream_time_to_first_byte_seconds_count"
    assert value(series, name, family="chat", backend="one") == 2


async def test_a_stream_that_the_backend_cuts_is_counted_as_such(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = cut_stream
    body = json.dumps(STREAM).encode()
    async with connected(ollad.port) as (reader, writer):
        writer.write(
            request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
        )
        data = await reader.read()
    assert b"data:" in data
    assert not data.endswith(b"0\r\n\r\n")
    series = await scrape(ollad)
    assert value(series, "ollad_stream_aborts_total", family="chat", side="upstream") == 1
    assert total(series, "ollad_stream_aborts_total") == 1
    assert value(series, "ollad_requests_total", family="chat", model="tiny", code="200") == 1
    assert (
        value(
            series, "ollad_upstream_attempts_total", family="chat", backend="one", outcome="reset"
        )
        == 1
    )


async def test_a_retry_is_an_attempt_more_but_no_request_more(fake: FakeSGLang) -> None:
    other = FakeSGLang()
    for server in (fake, other):
        server.scripts[CHAT_PATH] = reply({}, "503 Busy")
    async with serving(other), running(endpoint(fake), endpoint(other, "two")) as ollad:
        response, _ = await ollad.post(CHAT_PATH, CHAT)
        assert response.status == 503
        series = await scrape(ollad)
    assert total(series, "ollad_requests_total") == 1
    assert total(series, "ollad_upstream_attempts_total", outcome="http_5xx") == 2
    assert value(series, "ollad_retries_total", family="chat", reason="status_503") == 1
    assert value(series, "ollad_retries_exhausted_total", family="chat") == 1


async def test_body_bytes_are_counted_both_ways(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = reply({"choices": []})
    _, body = await ollad.post(CHAT_PATH, CHAT)
    series = await scrape(ollad)
    sent = len(json.dumps(CHAT))
    assert value(series, "ollad_request_body_bytes_total", family="chat") == sent
    assert value(series, "ollad_response_body_bytes_total", family="chat") == len(body)


async def test_backends_and_their_probes_are_shown(ollad: Running) -> None:
    series = await scrape(ollad)
    assert value(series, "ollad_backend_up", backend="one") == 1
    assert value(series, "ollad_backend_state", backend="one", state="healthy") == 1
    assert value(series, "ollad_backend_state", backend="one", state="down") == 0
    assert value(series, "ollad_backend_weight_ratio", backend="one") == 1
    assert value(series, "ollad_backend_running_requests", backend="one") == 2
    assert value(series, "ollad_backend_queued_requests", backend="one") == 1
    assert value(series, "ollad_backend_radix_cache_usage_ratio", backend="one") == 0.35
    assert value(series, "ollad_health_checks_total", backend="one", result="ok") >= 1
    assert value(series, "ollad_health_check_duration_seconds_count", backend="one") >= 1


async def test_clients_cannot_make_up_series(ollad: Running) -> None:
    for n in range(3):
        await ollad.post(CHAT_PATH, {**CHAT, "model": f"made-up-{n}"})
        await ollad.get(f"/made-up-{n}")
        await ollad.session.request(f"MADEUP{n}", "/made-up")
    _, body = await ollad.get("/metrics")
    assert b"made-up" not in body.lower()
    assert b"MADEUP" not in body


async def test_two_daemons_in_one_process_count_apart(fake: FakeSGLang, ollad: Running) -> None:
    async with running(endpoint(fake)) as second:
        await ollad.get("/version")
        one, two = await scrape(ollad), await scrape(second)
    assert total(one, "ollad_requests_total") == 1
    assert total(two, "ollad_requests_total") == 0
