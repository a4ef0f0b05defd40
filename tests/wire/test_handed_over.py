"""Requests that began without aiohttp and turned out to be unusual."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest

import ollad.fastpath as ollad_fastpath
from ollad.config.schema import Server
from ollad.ordinary import OrdinaryHandler
from tests.compiled import text_only
from tests.wire.byte_client import connect, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, chunked, event_bytes, reply, sse
from tests.wire.relay.replies import OPAQUE, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollad.relay.exchange import Fault
    from tests.wire.byte_client import ByteClient
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang, Script
    from tests.wire.loglines import LogLines
    from tests.wire.relay.replies import Reply


@pytest.fixture(autouse=True)
async def _nothing_goes_wrong_that_nobody_sees() -> AsyncIterator[None]:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    yield
    assert complaints == []


async def ask(client: ByteClient, data: bytes) -> Reply:
    await client.send(data)
    return await read_reply(client.reader)


def sized(size: int) -> bytes:
    return post(body=b'{"text": "%b"}' % (b"x" * size))


def nothing_is_left(ollad: Running) -> bool:
    gateway = ollad.gateway
    return (
        not gateway.traffic.under_way
        and gateway.bodies.held == 0
        and all(backend.in_flight == 0 for backend in gateway.runtime.pool)
    )


@pytest.fixture
def made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies are waited for whatever their size, since the kernel cuts them as it likes."""
    monkeypatch.setattr(ollad_fastpath, "_COLLECTED", 1024 * 1024)


@pytest.mark.parametrize("size", [10, 20_000, 140_000, 200_000])
async def test_a_body_of_any_size_is_handed_over(
    size: int, fake: FakeSGLang, ollad: Running, made_whole: None
) -> None:
    del made_whole
    busy = reply({"busy": True}, "503 Service Unavailable")
    fake.scripts[OPAQUE] = [reply({}), busy, reply({"n": 1}), reply({"n": 2})]
    async with connect(ollad.port) as client:
        await ask(client, post())
        assert (await ask(client, sized(size))).status == 503
        assert (await ask(client, post(headers="X-Unknown: 1\r\n"))).body == b'{"n": 1}'
        assert (await ask(client, sized(size))).body == b'{"n": 2}'
    assert len(json.loads(fake.requests[1].body)["text"]) == size
    await until(lambda: nothing_is_left(ollad))


async def test_bodies_that_come_in_one_go_count_as_held(fake: FakeSGLang, made_whole: None) -> None:
    del made_whole
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await reply({})(exchange)

    fake.scripts[OPAQUE] = [reply({}), wait]
    server = Server(max_body_size=100_000, max_buffered_bytes=150_000)
    async with running(endpoint(fake), server=server) as ollad:
        async with connect(ollad.port) as one, connect(ollad.port) as other:
            await ask(one, post())
            await one.send(sized(90_000))
            await until(lambda: len(fake.requests) == 2)
            refused = await ask(other, sized(90_000))
            release.set()
            served = await read_reply(one.reader)
        assert (refused.status, served.status) == (503, 200)
        assert b"too_many_bodies" in refused.body
        await until(lambda: nothing_is_left(ollad))


async def test_a_content_encoding_is_refused_each_time(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[OPAQUE] = reply({})
    async with connect(ollad.port) as client:
        for _ in range(3):
            answer = await ask(client, post(headers="Content-Encoding: snappy\r\n"))
            assert answer.status == 415


async def test_a_header_like_no_id_is_left_alone(fake: FakeSGLang, ollad: Running) -> None:
    zeros = "0" * 36
    fake.scripts[OPAQUE] = reply({})
    async with connect(ollad.port) as client:
        for _ in range(3):
            await ask(client, post(headers=f"X-Zeros: {zeros}\r\n"))
    for request in fake.requests:
        assert request.header("X-Zeros") == zeros
        assert request.header("X-Olla-Request-ID") not in (None, zeros)


@text_only
async def test_what_nobody_expected_is_answered_and_leaves_nothing(
    fake: FakeSGLang, ollad: Running, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    del log
    fake.scripts[OPAQUE] = reply({})

    def fail(*_: Any) -> None:
        raise ValueError("no")

    async with connect(ollad.port) as client:
        await ask(client, post())
        monkeypatch.setattr(ollad.gateway.dispatcher.placement, "read", fail)
        assert (await ask(client, post())).status == 500
    await until(lambda: nothing_is_left(ollad))


@text_only
async def test_a_connection_that_fails_oddly_is_answered_and_leaves_nothing(
    fake: FakeSGLang, ollad: Running, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    del log
    fake.scripts[OPAQUE] = reply({})

    async def fail(*_: Any) -> Fault:
        raise ValueError("no")

    async with connect(ollad.port) as client:
        await ask(client, post())
        ollad.gateway.dispatcher.relay.pool(next(iter(ollad.gateway.runtime.pool))).distrust()
        monkeypatch.setattr(type(ollad.gateway.dispatcher.relay), "connected", fail)
        assert (await ask(client, post())).status == 500
    await until(lambda: nothing_is_left(ollad))


@text_only
async def test_a_request_that_waits_for_a_connection_is_cut_at_once(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.scripts[OPAQUE] = reply({})
    begun = asyncio.Event()

    async def never(*_: Any) -> Fault:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with connect(ollad.port) as client:
        await ask(client, post())
        ollad.gateway.dispatcher.relay.pool(next(iter(ollad.gateway.runtime.pool))).distrust()
        monkeypatch.setattr(type(ollad.gateway.dispatcher.relay), "connected", never)
        await client.send(post())
        await begun.wait()
        ollad.gateway.draining = True
        ollad.gateway.traffic.cut()
        answer = await read_reply(client.reader)
        assert answer.status == 503
        assert b"draining" in answer.body
    await until(lambda: nothing_is_left(ollad))


async def test_a_request_that_was_handed_over_is_cut_once(fake: FakeSGLang, ollad: Running) -> None:
    traffic = ollad.gateway.traffic
    fake.scripts[OPAQUE] = [reply({}), reply({})]
    async with connect(ollad.port) as client:
        await ask(client, post())
        take_over = OrdinaryHandler.take_over

        def then_cut(self: OrdinaryHandler, begun: Any) -> None:
            take_over(self, begun)
            if not traffic.cut_off:
                ollad.gateway.draining = True
                traffic.cut()
                assert len(self._messages) == 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OrdinaryHandler, "take_over", then_cut)
            answer = await ask(client, post(body=b'{"model": "none"}'))
        assert answer.status == 503
    await until(lambda: nothing_is_left(ollad))


async def _reset(exchange: Exchange) -> None:
    exchange.reset()


async def _never(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


async def _cut(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD + 2 * chunked(event_bytes({"x": 1})))
    exchange.reset()


@pytest.mark.parametrize(
    "script",
    [
        reply({}),
        reply({}, "503 Service Unavailable"),
        reply({}, headers={"connection": "close"}),
        sse({"x": 1}, {"x": 2}),
        _reset,
        _never,
        _cut,
    ],
    ids=["whole", "busy", "closed", "stream", "reset", "never", "cut"],
)
async def test_requests_of_every_ending_leave_nothing_that_only_a_collector_finds(
    script: Script, fake: FakeSGLang, ollad: Running
) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            fake.scripts[OPAQUE] = [reply({}), script]
            async with connect(ollad.port) as client:
                await ask(client, post())
                await client.send(post())
                if script is _never:
                    await until(lambda: len(ollad.gateway.traffic.under_way) == 1)
                else:
                    await client.head()
            await until(lambda: nothing_is_left(ollad))
        await asyncio.sleep(0.01)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = {type(found).__module__ for found in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not {name for name in names if name.startswith(("ollad", "httptools"))}
