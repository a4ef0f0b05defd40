"""What is sent again, and what never is."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Proxy
from tests.wire.byte_client import until
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    FakeSGLang,
    chunked,
    reply,
    serving,
    sse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        Script,
    )

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SELDOM: dict[str, Any] = {"check_interval": 600.0, "check_timeout": 5.0}
STREAM = {**CHAT, "stream": True}
ROUTE = "/v1/chat/completions"
GOOD = reply({"id": "good", "choices": []})
BUSY_BODY = b'{"object":"error","message":"The request queue is full.","type":"503","code":503}'
# as sent by SGLang 0.5.23 with --max-queued-requests
QUEUE_FULL_CHAT = (
    b'data: {"error": {"object": "error", "message": "The request queue is full.", '
    b'"type": "SERVICE_UNAVAILABLE", "param": null, "code": 503}}\n\n'
)
QUEUE_FULL_GENERATE = (
    b'data: {"text":"","output_ids":[],"meta_info":{"id":"40bbd6cbcf864ac1a673d8cbb5965111",'
    b'"finish_reason":{"type":"abort","status_code":503,"message":"The request queue is full."},'
    b'"weight_version":"default","e2e_latency":0.0008898370001588773,"completion_tokens":0}}\n\n'
)


@asynccontextmanager
async def two(
    first: Script, second: Script, route: str = ROUTE, **sections: Any
) -> AsyncIterator[tuple[Running, FakeSGLang, FakeSGLang]]:
    """An ollad that asks the first backend first, since its weight is far greater."""
    one, other = FakeSGLang(), FakeSGLang()
    one.scripts[route], other.scripts[route] = first, second
    async with (
        serving(one, other),
        running(
            endpoint(one, "one", priority=100, **SELDOM),
            endpoint(other, "other", priority=1, **SELDOM),
            **sections,
        ) as instance,
    ):
        yield instance, one, other


async def cut_off(exchange: Exchange) -> None:
    exchange.reset()


async def half_a_head(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")
    exchange.writer.close()


async def nonsense(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    exchange.writer.close()


async def half_a_body(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    exchange.writer.close()


async def silent(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


def attempts(ollad: Running, outcome: str, name: str = "one") -> float:
    """How often an attempt at backend ``name`` ended so."""
    value = ollad.gateway.telemetry.registry.get_sample_value(
        "ollad_upstream_attempts_total", {"family": "chat", "backend": name, "outcome": outcome}
    )
    return value or 0.0


async def test_a_backend_that_refuses_connections_is_passed_over() -> None:
    async with two(GOOD, GOOD) as (ollad, one, other):
        one.refuse_connections()
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert len(other.requests) == 1


async def test_when_every_backend_refuses_connections_the_answer_is_503() -> None:
    async with two(GOOD, GOOD) as (ollad, one, other):
        one.refuse_connections()
        other.refuse_connections()
        response, body = await ollad.post(ROUTE, CHAT)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        error = json.loads(body)["error"]
        assert error["code"] == "no_backend"
        assert "127.0.0.1" not in error["message"]


@pytest.mark.parametrize(
    "status", ["429 Too Many Requests", "502 Bad Gateway", "503 Busy", "504 Late"]
)
async def test_a_reply_that_says_not_served_is_tried_elsewhere(status: str) -> None:
    async with two(reply(BUSY_BODY, status), GOOD) as (ollad, one, other):
        response, body = await ollad.post(ROUTE, CHAT)
        assert response.status == 200
        assert json.loads(body)["id"] == "good"
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert (len(one.requests), len(other.requests)) == (1, 1)
        assert one.requests[0].body == other.requests[0].body


@pytest.mark.parametrize(
    "status", ["400 Bad", "404 Gone", "422 No", "500 Bug", "501 No", "302 There"]
)
async def test_any_other_status_is_the_answer(status: str) -> None:
    async with two(reply(BUSY_BODY, status), GOOD) as (ollad, _, other):
        response, body = await ollad.post(ROUTE, CHAT, allow_redirects=False)
        assert response.status == int(status[:3])
        assert body == BUSY_BODY
        assert not other.requests


@pytest.mark.parametrize(
    "status", ["429 Too Many Requests", "502 Bad Gateway", "503 Busy", "504 Late"]
)
async def test_the_only_backends_refusal_passes_untouched(
    status: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = reply(BUSY_BODY, status, {"Retry-After": "7", "x-why": "full"})
    response, body = await ollad.post(ROUTE, CHAT)
    assert f"{response.status} {response.reason}" == status
    assert body == BUSY_BODY
    assert response.headers["Retry-After"] == "7"
    assert response.headers["x-why"] == "full"
    assert len(fake.requests) == 1


async def test_the_last_refusal_passes_when_all_refuse() -> None:
    async with two(reply(b"a", "503 Busy"), reply(b"b", "429 Slow")) as (ollad, one, other):
        response, body = await ollad.post(ROUTE, CHAT)
        assert (response.status, body) == (429, b"b")
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert (len(one.requests), len(other.requests)) == (1, 1)


async def test_a_refusal_passes_when_nobody_else_can_be_reached() -> None:
    async with two(reply(b"full", "429 Slow", {"Retry-After": "9"}), GOOD) as (ollad, _, other):
        other.refuse_connections()
        response, body = await ollad.post(ROUTE, CHAT)
        assert (response.status, body) == (429, b"full")
        assert response.headers["Retry-After"] == "9"
        assert response.headers["X-Olla-Endpoint"] == "one"


async def test_a_refusal_whose_body_breaks_off_is_tried_elsewhere() -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\nfu")
        exchange.writer.close()

    async with two(broken, GOOD) as (ollad, *_):
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200


@pytest.mark.parametrize("declared", [True, False], ids=["sized", "chunked"])
async def test_a_refusal_too_long_to_hold_is_tried_elsewhere(declared: bool) -> None:
    long = b"x" * (2 * 1024 * 1024)

    async def unsized(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n")
        await exchange.send(chunked(long) + b"0\r\n\r\n")

    refusal = reply(long, "503 Busy") if declared else unsized
    async with two(refusal, GOOD) as (ollad, *_):
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200
    async with two(refusal, refusal) as (ollad, *_):
        response, body = await ollad.post(ROUTE, CHAT)
        assert response.status == 503
        assert body == long


@pytest.mark.parametrize(
    ("route", "request_body", "event"),
    [
        (ROUTE, STREAM, QUEUE_FULL_CHAT),
        ("/generate", {"text": "hi", "stream": True}, QUEUE_FULL_GENERATE),
    ],
    ids=["chat", "generate"],
)
@pytest.mark.parametrize("cut", [0, 1, 40, -1], ids=["whole", "first byte", "inside", "last byte"])
async def test_a_stream_that_begins_with_queue_full_is_tried_elsewhere(
    route: str, request_body: Any, event: bytes, cut: int
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for part in filter(None, (event[:cut], event[cut:])):
            await exchange.send(chunked(part))
            await asyncio.sleep(0.02)
        await exchange.send(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with two(refuse, sse(b"data: {}\n\n"), route) as (ollad, one, other):
        response, body = await ollad.post(route, request_body)
        assert body == b"data: {}\n\ndata: [DONE]\n\n"
        assert response.headers["X-Olla-Endpoint"] == "other"
        pool = ollad.gateway.runtime.pool
        assert pool.named("one").overloaded_until > pool.named("other").overloaded_until == 0.0
    async with two(refuse, refuse, route) as (ollad, one, other):
        response, body = await ollad.post(route, request_body)
        assert response.status == 200
        assert body == event + b"data: [DONE]\n\n"
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert (len(one.requests), len(other.requests)) == (1, 1)


async def test_queue_full_later_in_a_stream_passes_on() -> None:
    async with two(sse(b"data: {}\n\n", QUEUE_FULL_CHAT), GOOD) as (ollad, _, other):
        _, body = await ollad.post(ROUTE, STREAM)
        assert body == b"data: {}\n\n" + QUEUE_FULL_CHAT + b"data: [DONE]\n\n"
        assert not other.requests


@pytest.mark.parametrize(
    "fault", [cut_off, half_a_head, nonsense, half_a_body], ids=lambda fault: fault.__name__
)
async def test_what_may_have_run_is_not_sent_twice(fault: Script) -> None:
    async with two(fault, GOOD) as (ollad, one, other):
        response, body = await ollad.post(ROUTE, CHAT)
        assert response.status == 502
        assert json.loads(body)["error"]["code"] == "backend_error"
        assert "127.0.0.1" not in body.decode()
        assert (len(one.requests), len(other.requests)) == (1, 0)


async def test_a_connection_closed_while_idle_costs_the_client_nothing(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = [GOOD, cut_off, GOOD]
    assert (await ollad.post(ROUTE, CHAT))[0].status == 200
    assert (await ollad.post(ROUTE, CHAT))[0].status == 200
    assert len(fake.requests) == 3
    assert attempts(ollad, "reset") == 1


async def test_a_stale_connection_costs_no_attempt(fake: FakeSGLang) -> None:
    async with running(endpoint(fake), proxy=Proxy(attempts=1)) as ollad:
        fake.scripts[ROUTE] = [GOOD, cut_off, GOOD]
        assert (await ollad.post(ROUTE, CHAT))[0].status == 200
        assert (await ollad.post(ROUTE, CHAT))[0].status == 200


@pytest.mark.parametrize("fault", [half_a_head, nonsense], ids=lambda fault: fault.__name__)
async def test_a_reused_connection_that_breaks_inside_a_reply_is_not_stale(
    fault: Script, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = [GOOD, fault, GOOD]
    assert (await ollad.post(ROUTE, CHAT))[0].status == 200
    assert (await ollad.post(ROUTE, CHAT))[0].status == 502
    assert len(fake.requests) == 2


async def test_a_reused_connection_that_ends_late_is_not_stale(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = asyncio.get_running_loop().time
    late = 0.0
    monkeypatch.setattr(ollad.gateway.dispatcher.relay, "_clock", lambda: now() + late)

    async def late_end(exchange: Exchange) -> None:
        nonlocal late
        late = 2.0
        exchange.reset()

    fake.scripts[ROUTE] = [GOOD, late_end, GOOD]
    assert (await ollad.post(ROUTE, CHAT))[0].status == 200
    assert (await ollad.post(ROUTE, CHAT))[0].status == 502
    assert len(fake.requests) == 2


async def test_a_timeout_after_connecting_is_not_sent_again() -> None:
    async with two(silent, GOOD, proxy=Proxy(first_byte_timeout=0.1)) as (ollad, one, other):
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 504
        assert (len(one.requests), len(other.requests)) == (1, 0)


async def test_no_more_backends_are_tried_than_attempts_allow() -> None:
    fakes = [FakeSGLang() for _ in range(4)]
    for fake in fakes:
        fake.scripts[ROUTE] = reply(BUSY_BODY, "503 Busy")
    async with (
        serving(*fakes),
        running(*(endpoint(fake, str(i)) for i, fake in enumerate(fakes))) as ollad,
    ):
        response, body = await ollad.post(ROUTE, CHAT)
        assert (response.status, body) == (503, BUSY_BODY)
        assert sorted(len(fake.requests) for fake in fakes) == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ({}, 1.0, 2.0),
        ({"Retry-After": "1"}, 1.0, 2.0),
        ({"Retry-After": "30"}, 29.0, 30.0),
        ({"Retry-After": "86400"}, 59.0, 60.0),
        ({"Retry-After": "-5"}, 1.0, 2.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0, 2.0),
    ],
)
async def test_a_refusal_marks_the_backend_as_overloaded(
    header: dict[str, str], least: float, most: float
) -> None:
    async with two(reply(BUSY_BODY, "503 Busy", header), GOOD) as (ollad, *_):
        await ollad.post(ROUTE, CHAT)
        now = ollad.gateway.clock()
        backend = ollad.gateway.runtime.pool.named("one")
        assert least < backend.overloaded_until - now <= most
        assert backend.weight(now) == pytest.approx(backend.snapshot.weight * 0.1)
        assert backend.weight(now + most) == backend.snapshot.weight


@pytest.mark.parametrize("status", ["500 Bug", "502 Bad Gateway", "504 Late", "404 Gone"])
async def test_other_errors_do_not_mark_the_backend_as_overloaded(status: str) -> None:
    async with two(reply(BUSY_BODY, status), GOOD) as (ollad, *_):
        await ollad.post(ROUTE, CHAT)
        assert ollad.gateway.runtime.pool.named("one").overloaded_until == 0.0


async def test_nothing_stays_in_flight_after_faults() -> None:
    faults: list[Callable[[Exchange], Any]] = [cut_off, half_a_head, nonsense, half_a_body]
    async with two(GOOD, GOOD) as (ollad, one, _):
        one.scripts[ROUTE] = [*faults, reply(BUSY_BODY, "503 Busy"), GOOD]
        for _ in range(6):
            await ollad.post(ROUTE, CHAT)
        await until(lambda: all(b.in_flight == 0 for b in ollad.gateway.runtime.pool))


async def test_a_request_that_was_not_sent_whole_is_sent_again() -> None:
    async def read_a_little(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.transport.abort()

    body = io.BytesIO(json.dumps({**CHAT, "padding": "x" * 20_000_000}).encode())
    async with two(GOOD, GOOD) as (ollad, one, other):
        one.refuse_connections()
        half = await asyncio.start_server(read_a_little, "127.0.0.1", one.port, limit=2**16)
        async with half:
            headers = {"Content-Type": "application/json"}
            response = await ollad.session.post(PREFIX + ROUTE, data=body, headers=headers)
        assert response.status == 200
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert len(other.requests) == 1
        assert attempts(ollad, "reset") == 1


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_run_that_died_with_its_backend_is_sent_again(body: dict[str, Any]) -> None:
    async def die(exchange: Exchange) -> None:
        one.refuse_connections()
        exchange.reset()

    async with two(GOOD, GOOD) as (ollad, one, other):
        one.scripts[ROUTE] = die
        response, _ = await ollad.post(ROUTE, body)
        assert response.headers["X-Olla-Endpoint"] == "other"
        assert (len(one.requests), len(other.requests)) == (1, 1)


async def test_a_run_that_died_in_the_middle_of_a_whole_reply_had_completed() -> None:
    async def die(exchange: Exchange) -> None:
        one.refuse_connections()
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        )
        exchange.reset()

    async with two(GOOD, GOOD) as (ollad, one, other):
        one.scripts[ROUTE] = die
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 502
        assert other.requests == []


async def test_with_the_budget_spent_a_refusal_is_passed_on_but_a_dead_backend_passed_over() -> (
    None
):
    busy = reply(BUSY_BODY, "503 Service Unavailable")
    async with two(busy, GOOD, proxy=Proxy(retry_budget=0.0)) as (ollad, one, other):
        budget = ollad.gateway.dispatcher._budget
        budget.tokens = -1000.0
        response, body = await ollad.post(ROUTE, CHAT)
        assert (response.status, body) == (503, BUSY_BODY)
        one.refuse_connections()
        await one.stop()
        ollad.gateway.runtime.pool.named("one").overloaded_until = 0.0
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200
        assert len(other.requests) == 1


async def test_a_prompt_that_a_reused_connection_delivered_is_not_run_twice(
    fake: FakeSGLang, ollad: Running
) -> None:
    async def run_and_reset(exchange: Exchange) -> None:
        await asyncio.sleep(0.05)
        exchange.reset()

    fake.scripts[ROUTE] = [GOOD, run_and_reset, GOOD]
    assert (await ollad.post(ROUTE, CHAT))[0].status == 200
    assert (await ollad.post(ROUTE, CHAT))[0].status == 502
    assert len(fake.requests) == 2
