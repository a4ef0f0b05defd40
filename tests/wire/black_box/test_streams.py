"""What a proxy does to long, slow and broken replies, seen from outside (1 to 5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from ollad.config.schema import Proxy
from tests.wire.black_box.scripts import (
    CHAT,
    DONE,
    EVENT,
    ROUTE,
    SELDOM,
    STREAM,
    one_event,
    reset_after_one_event,
)
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang

SOON = 0.2


async def begun(ollad: Running) -> aiohttp.ClientResponse:
    """A stream whose first event has come."""
    response = await ollad.session.post(PREFIX + ROUTE, json=STREAM)
    assert response.status == 200
    assert await response.content.readexactly(len(EVENT)) == EVENT
    return response


async def test_01_a_hundred_and_twenty_slow_streams_reach_one_backend_at_once(
    fake: FakeSGLang, ollad: Running
) -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(EVENT))
        await go_on.wait()
        await exchange.send(chunked(DONE) + b"0\r\n\r\n")

    fake.scripts[ROUTE] = slow
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url = f"http://127.0.0.1:{ollad.port}{PREFIX}{ROUTE}"
        posts = [asyncio.create_task(session.post(url, json=STREAM)) for _ in range(120)]
        await until(lambda: len(fake.requests) == 120)
        go_on.set()
        bodies = [await (await post).read() for post in posts]
    assert bodies == [EVENT + DONE] * 120


async def test_02_a_completion_may_be_silent_for_longer_than_half_a_minute(
    fake: FakeSGLang, ollad: Running
) -> None:
    """A second here; whatever could end it is set to minutes."""

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(1)
        await reply({"choices": []})(exchange)

    fake.scripts[ROUTE] = late
    response, _ = await ollad.post(ROUTE, CHAT)
    assert response.status == 200
    patience = ollad.gateway.runtime.config.proxy
    assert patience.first_byte_timeout >= 60
    assert patience.idle_timeout >= 60
    assert patience.total_timeout == 0


async def test_03_a_stream_that_hangs_ends_for_its_client_after_the_idle_timeout(
    fake: FakeSGLang,
) -> None:
    fake.scripts[ROUTE] = one_event
    async with running(endpoint(fake, **SELDOM), proxy=Proxy(idle_timeout=SOON)) as ollad:
        response = await begun(ollad)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        await fake.requests[0].client_gone.wait()


async def test_04_a_pause_longer_than_the_idle_timeout_cuts_and_a_shorter_one_never_does(
    fake: FakeSGLang,
) -> None:
    pauses = asyncio.Queue[float]()
    sent = 0

    async def paused(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(STREAM_HEAD + chunked(EVENT))
        while not pauses.empty():
            await asyncio.sleep(pauses.get_nowait())
            await exchange.send(chunked(EVENT))
            sent += 1
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[ROUTE] = paused
    async with running(endpoint(fake, **SELDOM), proxy=Proxy(idle_timeout=1.0)) as ollad:
        for _ in range(8):
            pauses.put_nowait(SOON)
        response = await begun(ollad)
        assert await response.read() == EVENT * 8
        pauses.put_nowait(3.0)
        response = await begun(ollad)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        assert sent == 8  # it was cut when the timeout was over, not when the late event came


async def test_05_a_backend_that_resets_in_mid_stream_is_a_failure_to_the_client(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = reset_after_one_event
    response = await begun(ollad)
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
