"""What clients notice of backends that are down, busy or restarted (6 to 12)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from ollad.config.schema import Health, Proxy
from tests.wire.black_box.scripts import CHAT, ROUTE, SELDOM, STREAM, black_hole, silent
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

GOOD = reply({"choices": []})


def checks(ollad: Running) -> float:
    """How often the backend was checked."""
    return sum(
        sample.value
        for metric in ollad.gateway.telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == "ollad_health_checks_total"
    )


async def test_06_a_black_hole_is_passed_over() -> None:
    dark, light = FakeSGLang(), FakeSGLang()
    light.scripts[ROUTE] = GOOD
    async with (
        serving(dark, light),
        running(
            endpoint(dark, "dark", priority=100, **SELDOM),
            endpoint(light, "light", priority=1, **SELDOM),
            proxy=Proxy(connect_timeout=0.1),
        ) as ollad,
    ):
        await dark.stop()
        with black_hole(dark.port):
            response, _ = await ollad.post(ROUTE, CHAT)
    assert (response.status, response.headers["X-Olla-Endpoint"]) == (200, "light")


async def test_07_a_restart_between_two_requests_on_one_connection_goes_unnoticed(
    fake: FakeSGLang,
) -> None:
    fake.scripts[ROUTE] = GOOD
    async with running(endpoint(fake, **SELDOM)) as ollad:
        for _ in range(3):
            response, _ = await ollad.post(ROUTE, CHAT)
            assert response.status == 200
            await fake.stop()
            await fake.start(fake.port)
        assert len(fake.requests) == 3


async def test_08_a_backend_that_answers_503_at_once_does_not_attract_the_load() -> None:
    busy, idle = FakeSGLang(), FakeSGLang()
    busy.scripts[ROUTE], idle.scripts[ROUTE] = reply(b"full", "503 Busy"), GOOD
    async with (
        serving(busy, idle),
        running(endpoint(busy, "busy", **SELDOM), endpoint(idle, "idle", **SELDOM)) as ollad,
    ):
        statuses = []
        for _ in range(10):
            answers = await asyncio.gather(*(ollad.post(ROUTE, CHAT) for _ in range(10)))
            statuses += [response.status for response, _ in answers]
    assert statuses == [200] * 100
    assert len(busy.requests) < 50


async def test_09_clients_that_give_up_do_not_take_a_backend_out(fake: FakeSGLang) -> None:
    fake.scripts[ROUTE] = silent
    async with running(endpoint(fake, **SELDOM)) as ollad:
        for number in range(1, 13):
            post = asyncio.create_task(ollad.post(ROUTE, STREAM))
            await until(lambda number=number: len(fake.requests) == number)  # type: ignore[misc]
            post.cancel()
            await asyncio.gather(post, return_exceptions=True)
        fake.scripts[ROUTE] = GOOD
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200


async def test_10_with_every_backend_down_the_answer_is_503_in_json_with_retry_after(
    fake: FakeSGLang, ollad: Running
) -> None:
    await fake.stop()
    await until(lambda: not ollad.gateway.runtime.pool.routable())
    response, body = await ollad.post(ROUTE, CHAT)
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert json.loads(body)["error"]["code"]


async def test_11_a_backend_that_dies_and_comes_back_is_noticed_within_three_checks(
    fake: FakeSGLang,
) -> None:
    fake.scripts[ROUTE] = GOOD
    async with running(endpoint(fake), health=Health(rise=2)) as ollad:
        pool = ollad.gateway.runtime.pool
        before = checks(ollad)
        await fake.stop()
        await until(lambda: not pool.routable())
        assert 1 <= checks(ollad) - before <= 2  # one may have been under way
        before = checks(ollad)
        await fake.start(fake.port)
        await until(lambda: bool(pool.routable()))
        assert 2 <= checks(ollad) - before <= 3
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200


async def test_12_one_failed_check_out_of_many_changes_nothing(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = GOOD
    pool = ollad.gateway.runtime.pool
    since = pool.named("one").snapshot.since
    good = reply(b"", content_type="")
    fake.scripts["/ready"] = [reply(b"", "500 Broken"), good]
    await until(lambda: pool.named("one").snapshot.failures == 1)
    async with ollad.session.post(PREFIX + ROUTE, json=CHAT) as response:
        assert response.status == 200
    await until(lambda: pool.named("one").snapshot.failures == 0)
    assert pool.named("one").snapshot.since == since
