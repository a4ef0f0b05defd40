"""Who is chosen, and what reloads and shutdowns do to streams (21 to 24)."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ollad.config.schema import Routing
from tests.wire.black_box.scripts import CHAT, DONE, EVENT, ROUTE, STREAM
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply, serving
from tests.wire.process import configuration, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.fake_sglang import Exchange
    from tests.wire.process import Process


GOOD = reply({"choices": [{"message": {"role": "assistant", "content": "I see."}}]})


@pytest.fixture
async def three() -> AsyncIterator[list[FakeSGLang]]:
    """Three backends that answer at once."""
    fakes = [FakeSGLang() for _ in range(3)]
    for fake in fakes:
        fake.scripts[ROUTE] = GOOD
    async with serving(*fakes):
        yield fakes


class Held:
    """Streams that begin, and end when they are told to."""

    def __init__(self, fake: FakeSGLang) -> None:
        self.release = asyncio.Event()
        fake.scripts[ROUTE] = self._script

    async def _script(self, exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(EVENT))
        await self.release.wait()
        await exchange.send(chunked(DONE) + b"0\r\n\r\n")


async def begun(session: aiohttp.ClientSession, ollad: Process) -> aiohttp.ClientResponse:
    """A stream whose first event has come."""
    url = f"http://127.0.0.1:{ollad.port}{PREFIX}{ROUTE}"
    response = await session.post(url, json=STREAM)
    assert await response.content.readexactly(len(EVENT)) == EVENT
    return response


async def answered(session: aiohttp.ClientSession, ollad: Process, path: str) -> int:
    async with session.get(f"http://127.0.0.1:{ollad.port}{path}") as response:
        return response.status


async def test_21_round_robin_is_exact(three: list[FakeSGLang]) -> None:
    names = ("a", "b", "c")
    endpoints = [endpoint(fake, name) for fake, name in zip(three, names, strict=True)]
    policy: dict[str, Any] = {"policy": "round-robin"}
    async with running(*endpoints, routing=Routing(**policy)) as ollad:
        for _ in range(300):
            response, _ = await ollad.post(ROUTE, CHAT)
            assert response.status == 200
    assert [len(fake.requests) for fake in three] == [100, 100, 100]


async def test_22_a_short_chat_stays_with_the_backend_of_its_first_turn(
    three: list[FakeSGLang],
) -> None:
    names = ("a", "b", "c")
    endpoints = [endpoint(fake, name) for fake, name in zip(three, names, strict=True)]
    async with running(*endpoints) as ollad:
        for chat in range(10):
            system = f"You are assistant {chat}. Answer in one short sentence, politely. " * 3
            messages = [{"role": "system", "content": system}]
            served: Counter[str] = Counter()
            for turn in range(3):
                messages.append({"role": "user", "content": f"Question {turn}?"})
                response, _ = await ollad.post(ROUTE, {"model": "tiny", "messages": messages})
                served[response.headers["X-Olla-Endpoint"]] += 1
                messages.append({"role": "assistant", "content": "I see."})
            assert len(served) == 1


async def test_23_a_new_endpoint_serves_after_sighup_and_no_stream_is_dropped(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    held, other = Held(fake), FakeSGLang(("big",))
    other.scripts[ROUTE] = GOOD
    async with (
        serving(other),
        serve(configuration(tmp_path, fake.url)) as ollad,
        aiohttp.ClientSession() as session,
    ):
        stream = await begun(session, ollad)
        configuration(tmp_path, fake.url, other.url)
        ollad.process.send_signal(signal.SIGHUP)
        await ollad.logged("reloaded")
        url = f"http://127.0.0.1:{ollad.port}{PREFIX}{ROUTE}"
        async with session.post(url, json={**CHAT, "model": "big"}) as response:
            assert (response.status, response.headers["X-Olla-Endpoint"]) == (200, "b1")
        held.release.set()
        assert await stream.read() == DONE


async def test_24_after_sigterm_it_is_not_ready_and_what_is_under_way_finishes(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    held = Held(fake)
    server = {"port": 0, "shutdown_timeout": "1h"}
    async with (
        serve(configuration(tmp_path, fake.url, server=server)) as ollad,
        aiohttp.ClientSession() as session,
    ):
        stream = await begun(session, ollad)
        assert await answered(session, ollad, "/internal/ready") == 200
        ollad.process.send_signal(signal.SIGTERM)
        await ollad.logged("draining")
        assert await answered(session, ollad, "/internal/ready") == 503
        held.release.set()
        assert await stream.read() == DONE
        await session.close()
        assert await ollad.process.wait() == 0
