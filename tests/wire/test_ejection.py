"""A backend that fails what it is sent is left alone for a while, whatever its probes say."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.wire.black_box.scripts import (
    CHAT,
    ROUTE,
    SELDOM,
    STREAM,
    reset_after_one_event,
    silent,
)
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollad.backends.backend import Backend
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, Script
    from tests.wire.loglines import LogLines

GOOD = reply({"choices": []})
BROKEN = reply({"error": "no"}, "500 Internal Server Error")


async def cut_off(exchange: Exchange) -> None:
    exchange.reset()


@asynccontextmanager
async def two(script: Script) -> AsyncIterator[tuple[Running, FakeSGLang, FakeSGLang]]:
    """An ollad whose first backend, asked first by its weight, is scripted; the other is good."""
    bad, good = FakeSGLang(), FakeSGLang()
    bad.scripts[ROUTE], good.scripts[ROUTE] = script, GOOD
    async with (
        serving(bad, good),
        running(
            endpoint(bad, "bad", priority=100, **SELDOM),
            endpoint(good, "good", priority=1, **SELDOM),
        ) as ollad,
    ):
        yield ollad, bad, good


def backend(ollad: Running, name: str) -> Backend:
    return ollad.gateway.runtime.pool.named(name)


async def post(ollad: Running, body: dict[str, Any] = CHAT) -> int:
    """The status, whatever becomes of the body."""
    async with ollad.session.post(PREFIX + ROUTE, json=body) as response:
        with suppress(aiohttp.ClientPayloadError):
            await response.read()
        return response.status


async def entry(ollad: Running, name: str) -> dict[str, Any]:
    """What the status says of a backend."""
    _, body = await ollad.get("/internal/status/endpoints")
    entries = {each["name"]: each for each in json.loads(body)["endpoints"]}
    found: dict[str, Any] = entries[name]
    return found


@pytest.mark.parametrize(
    ("script", "body", "cause"),
    [
        (BROKEN, CHAT, "status 500"),
        (cut_off, CHAT, "reset"),
        (reset_after_one_event, STREAM, "truncated"),
    ],
    ids=["500", "reset", "stream cut"],
)
async def test_after_five_failures_requests_go_elsewhere_and_the_status_says_why(
    script: Script, body: dict[str, Any], cause: str, log: LogLines
) -> None:
    async with two(script) as (ollad, bad, good):
        for _ in range(8):
            await post(ollad, body)
        assert (len(bad.requests), len(good.requests)) == (5, 3)
        told = (await entry(ollad, "bad"))["ejected"]
        assert told["reason"] == f"5 failures in a row (the last: {cause})"
        assert told["since"] < told["until"]
        assert (await entry(ollad, "good"))["ejected"] is None
        value = ollad.gateway.telemetry.registry.get_sample_value
        assert value("ollad_backend_ejections_total", {"backend": "bad"}) == 1
    [line] = log.entries("backend ejected")
    assert (line["endpoint"], line["seconds"]) == ("bad", 5.0)


async def test_after_its_time_one_request_tries_it_and_a_good_answer_brings_it_back(
    log: LogLines,
) -> None:
    async with two(BROKEN) as (ollad, bad, good):
        for _ in range(5):
            await post(ollad)
        bad.scripts[ROUTE] = GOOD
        backend(ollad, "bad").breaker.until -= 5.0  # as if they were over
        assert [await post(ollad) for _ in range(3)] == [200] * 3
        assert (len(bad.requests), len(good.requests)) == (8, 0)
        assert backend(ollad, "bad").breaker.closed
    assert log.entries("backend takes requests again")


async def test_while_one_request_tries_it_others_go_elsewhere() -> None:
    async with two(BROKEN) as (ollad, bad, good):
        for _ in range(5):
            await post(ollad)
        bad.scripts[ROUTE] = silent
        backend(ollad, "bad").breaker.until -= 5.0
        trial = asyncio.create_task(post(ollad))
        await until(lambda: len(bad.requests) == 6)
        assert [await post(ollad) for _ in range(3)] == [200] * 3
        assert len(good.requests) == 3
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "422 Unprocessable"])
async def test_what_a_backend_thinks_of_requests_never_ejects_it(status: str) -> None:
    async with two(reply({"error": "no"}, status)) as (ollad, bad, _):
        for _ in range(12):
            await post(ollad)
        assert len(bad.requests) == 12
        assert backend(ollad, "bad").breaker.failures == 0


async def test_impatient_clients_never_eject_a_backend() -> None:
    async with two(silent) as (ollad, bad, _):
        for number in range(1, 13):
            task = asyncio.create_task(post(ollad))
            await until(lambda number=number: len(bad.requests) == number)  # type: ignore[misc]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert backend(ollad, "bad").breaker.failures == 0


@pytest.mark.parametrize("status", ["429 Too Many", "503 Busy"])
async def test_an_overloaded_backend_is_not_ejected(status: str) -> None:
    async with two(reply(b"full", status)) as (ollad, bad, _):
        for _ in range(8):
            assert await post(ollad) == 200
        assert backend(ollad, "bad").breaker.failures == 0
        assert bad.requests
        told = await entry(ollad, "bad")
        assert told["overloaded_until"] is not None


async def test_the_last_backend_is_tried_rather_than_refused(fake: FakeSGLang) -> None:
    fake.scripts[ROUTE] = BROKEN
    async with running(endpoint(fake, **SELDOM)) as ollad:
        assert [await post(ollad) for _ in range(8)] == [500] * 8
        assert (await entry(ollad, "one"))["ejected"] is not None
        fake.scripts[ROUTE] = GOOD
        assert await post(ollad) == 200
        assert (await entry(ollad, "one"))["ejected"] is None


async def test_when_the_backends_in_service_fail_an_ejected_one_is_tried() -> None:
    async with two(BROKEN) as (ollad, bad, good):
        for _ in range(5):
            await post(ollad)
        bad.scripts[ROUTE] = GOOD
        await good.stop()
        assert await post(ollad) == 200
        assert len(bad.requests) == 6
