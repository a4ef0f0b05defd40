"""Requests that wait while every backend has as many as it may have."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ollad.config.schema import Proxy, Queue
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.generations import Gate, generation
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

ROUTE = "/generate"
SELDOM: dict[str, Any] = {"check_interval": 600.0, "check_timeout": 5.0}


def prompt(text: str) -> dict[str, Any]:
    return {"model": "tiny", "text": text}


def sent(ollad: Running, text: str) -> asyncio.Task[tuple[Any, bytes]]:
    return asyncio.create_task(ollad.post(ROUTE, prompt(text)))


async def test_a_backend_never_has_more_than_it_may_and_nobody_is_refused(
    fake: FakeSGLang,
) -> None:
    gate = Gate()
    fake.scripts[ROUTE] = gate
    async with running(endpoint(fake, max_concurrent=3, **SELDOM)) as ollad:
        posts = [sent(ollad, f"p{number}") for number in range(10)]
        room = ollad.gateway.dispatcher.placement.room
        await until(lambda: room.waiting() == {"tiny": 7} and gate.waiting == 3)
        _, body = await ollad.get("/internal/status")
        document = json.loads(body)
        assert document["queue"] == {"size": 512, "waiting": {"tiny": 7}}
        assert document["endpoints"][0]["max_concurrent"] == 3
        value = ollad.gateway.telemetry.registry.get_sample_value
        assert value("ollad_queue_requests", {"model": "tiny"}) == 7
        gate.open()
        assert {response.status for response, _ in await asyncio.gather(*posts)} == {200}
        assert gate.most == 3
        assert value("ollad_queue_wait_seconds_count", {"family": "generate"}) == 10
        assert room.waiting() == {}
        assert ollad.gateway.runtime.pool.named("one").in_flight == 0


async def test_past_the_queue_the_answer_is_503_with_retry_after(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[ROUTE] = gate
    proxy = Proxy(queue=Queue(size=1))
    async with running(endpoint(fake, max_concurrent=1, **SELDOM), proxy=proxy) as ollad:
        posts = [sent(ollad, "a")]
        await until(lambda: gate.waiting == 1)
        posts.append(sent(ollad, "b"))
        await until(lambda: ollad.gateway.dispatcher.placement.room.count == 1)
        response, body = await ollad.post(ROUTE, prompt("c"))
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert json.loads(body)["error"]["code"] == "queue_full"
        labels = {"family": "generate", "reason": "queue_full"}
        value = ollad.gateway.telemetry.registry.get_sample_value
        assert value("ollad_queue_refusals_total", labels) == 1
        gate.open()
        await asyncio.gather(*posts)


async def test_who_waits_too_long_is_told_so(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[ROUTE] = gate
    proxy = Proxy(queue=Queue(timeout=0.05))
    async with running(endpoint(fake, max_concurrent=1, **SELDOM), proxy=proxy) as ollad:
        first = sent(ollad, "a")
        await until(lambda: gate.waiting == 1)
        response, body = await ollad.post(ROUTE, prompt("b"))
        assert response.status == 503
        assert json.loads(body)["error"]["code"] == "queue_timeout"
        gate.open()
        await first


async def test_a_client_that_goes_leaves_the_queue_at_once(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[ROUTE] = gate
    async with running(endpoint(fake, max_concurrent=1, **SELDOM)) as ollad:
        first = sent(ollad, "a")
        await until(lambda: gate.waiting == 1)
        gone, last = sent(ollad, "gone"), sent(ollad, "b")
        room = ollad.gateway.dispatcher.placement.room
        await until(lambda: room.count == 2)
        gone.cancel()
        await until(lambda: room.count == 1)
        gate.open()
        await asyncio.gather(first, last)
        assert gate.prompts == ["a", "b"]


async def test_who_waits_takes_whichever_backend_has_room_first() -> None:
    slow, quick = FakeSGLang(), FakeSGLang()
    held, free = Gate(), Gate()
    slow.scripts[ROUTE], quick.scripts[ROUTE] = held, free
    async with (
        serving(slow, quick),
        running(
            endpoint(slow, "slow", max_concurrent=1, **SELDOM),
            endpoint(quick, "quick", max_concurrent=1, **SELDOM),
        ) as ollad,
    ):
        posts = [sent(ollad, "a"), sent(ollad, "b")]
        await until(lambda: held.waiting == free.waiting == 1)
        third = sent(ollad, "c")
        await until(lambda: ollad.gateway.dispatcher.placement.room.count == 1)
        free.open()
        response, _ = await third
        assert response.headers["X-Olla-Endpoint"] == "quick"
        held.open()
        await asyncio.gather(*posts)


async def test_a_backend_that_dies_lets_nobody_wait_for_it(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[ROUTE] = gate
    often = endpoint(fake, max_concurrent=1, check_interval=0.1)
    async with running(often) as ollad:
        first = sent(ollad, "a")
        await until(lambda: gate.waiting == 1)
        second = sent(ollad, "b")
        await until(lambda: ollad.gateway.dispatcher.placement.room.count == 1)
        await fake.stop()
        response, body = await second
        assert response.status == 503
        assert json.loads(body)["error"]["code"] == "no_backend"
        await first


async def test_a_retry_waits_for_the_other_backend_if_that_is_busy() -> None:
    busy, other = FakeSGLang(), FakeSGLang()
    gate = Gate()
    busy.scripts[ROUTE] = reply(b"full", "503 Busy")
    other.scripts[ROUTE] = gate
    async with (
        serving(busy, other),
        running(
            endpoint(busy, "busy", priority=100, **SELDOM),
            endpoint(other, "other", priority=1, max_concurrent=1, **SELDOM),
        ) as ollad,
    ):
        posts = [sent(ollad, "a")]
        await until(lambda: gate.waiting == 1)
        posts.append(sent(ollad, "b"))
        await until(lambda: ollad.gateway.dispatcher.placement.room.count == 1)
        gate.open()
        answers = await asyncio.gather(*posts)
        assert [response.status for response, _ in answers] == [200, 200]
        assert generation(" [b]", prompt_tokens=1)["text"] in answers[1][1].decode()


async def test_a_retry_that_finds_no_room_leaves_the_first_refusal_as_the_answer() -> None:
    busy, other = FakeSGLang(), FakeSGLang()
    gate = Gate()
    busy.scripts[ROUTE] = reply(b"full", "503 Busy")
    other.scripts[ROUTE] = gate
    async with (
        serving(busy, other),
        running(
            endpoint(busy, "busy", priority=100, **SELDOM),
            endpoint(other, "other", priority=1, max_concurrent=1, **SELDOM),
            proxy=Proxy(queue=Queue(size=0)),
        ) as ollad,
    ):
        first = sent(ollad, "a")
        await until(lambda: gate.waiting == 1)
        response, body = await ollad.post(ROUTE, prompt("b"))
        assert (response.status, body) == (503, b"full")
        assert response.headers["X-Olla-Endpoint"] == "busy"
        gate.open()
        await first
