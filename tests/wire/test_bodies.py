"""Long request bodies, which are received past the parser of their connection."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from ollad.bodies import LONG
from ollad.config.schema import Server
from tests.wire.byte_client import connect, until
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import reply
from tests.wire.test_listeners import issue, trusting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

LENGTH = 5 * LONG + 321
BODY = b'{"prompt": "%b"}' % bytes(97 + at * at % 26 for at in range(LENGTH - 14))
SMALL = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


def head(*lines: str, length: int = len(BODY)) -> bytes:
    """The head of a request with a long body."""
    start = f"POST {PREFIX}/v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"
    return "\r\n".join([*start, f"Content-Length: {length}", *lines, "", ""]).encode()


@pytest.fixture
async def open_minded(fake: FakeSGLang) -> AsyncIterator[Running]:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    async with running(endpoint(fake)) as ollad:
        yield ollad


@pytest.mark.parametrize("size", [10_000, 65_536, 1_000_003, 2 * len(BODY)])
async def test_it_arrives_as_it_was_sent_and_the_connection_goes_on(
    size: int, fake: FakeSGLang, open_minded: Running
) -> None:
    sent = (head() + BODY) * 2 + SMALL
    async with connect(open_minded.port) as client:
        for at in range(0, len(sent), size):
            await client.send(sent[at : at + size])
            await asyncio.sleep(0)
        for _ in range(2):
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            await client.reader.readuntil(b"}}")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert [one.body for one in fake.requests] == [BODY, BODY]
    assert open_minded.gateway.bodies.held == 0


@pytest.mark.parametrize("early", [0, 1, LONG, len(BODY) - 1, len(BODY)])
async def test_it_may_be_waited_for(early: int, fake: FakeSGLang, open_minded: Running) -> None:
    async with connect(open_minded.port) as client:
        await client.send(head("Expect: 100-continue", "Connection: close") + BODY[:early])
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(BODY[early:])
        answer, _ = await client.reply()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert [one.body for one in fake.requests] == [BODY]


async def test_one_that_says_nothing_of_its_length_is_taken_too(
    fake: FakeSGLang, open_minded: Running
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(BODY), 100_000):
            yield BODY[at : at + 100_000]

    headers = {"Content-Type": "application/json"}
    async with open_minded.session.post(
        PREFIX + "/v1/completions", data=pieces(), headers=headers
    ) as response:
        assert response.status == 200
    assert [one.body for one in fake.requests] == [BODY]


async def test_it_comes_through_tls(fake: FakeSGLang, tmp_path: Path) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    async with (
        running(endpoint(fake), server=Server(tls=issue(tmp_path))) as ollad,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting())) as session,
    ):
        url = f"https://127.0.0.1:{ollad.port}{PREFIX}/v1/completions"
        for _ in range(2):
            async with session.post(
                url, data=io.BytesIO(BODY), headers={"Content-Type": "application/json"}
            ) as response:
                assert response.status == 200
    assert [one.body for one in fake.requests] == [BODY, BODY]


async def test_what_is_no_json_is_refused_and_the_connection_goes_on(
    fake: FakeSGLang, open_minded: Running
) -> None:
    async with connect(open_minded.port) as client:
        await client.send(head() + BODY[:-1] + b"?" + SMALL)
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")
        assert b"not valid JSON" in await client.reader.readuntil(b"}}")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    assert fake.requests == []


async def test_one_that_does_not_come_in_time_is_408_and_no_longer_held(fake: FakeSGLang) -> None:
    async with (
        running(endpoint(fake), server=Server(body_timeout=0.2)) as ollad,
        connect(ollad.port) as client,
    ):
        await client.send(head() + BODY[:LONG])
        await until(lambda: ollad.gateway.bodies.held >= LONG)
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")
        await client.reader.readuntil(b"}}")
        assert ollad.gateway.bodies.held == 0
        await client.send(BODY[LONG:] + SMALL)
        # the rest has been read, so that nothing is reset
        assert await client.reader.read() == b""
    assert fake.requests == []


async def test_one_that_would_be_too_much_is_503_before_it_has_come(fake: FakeSGLang) -> None:
    server = Server(max_body_size=len(BODY), max_buffered_bytes=len(BODY))
    async with running(endpoint(fake), server=server) as ollad, connect(ollad.port) as first:
        await first.send(head() + BODY[:LONG])
        await until(lambda: ollad.gateway.bodies.held >= LONG)
        async with connect(ollad.port) as second:
            await second.send(head() + BODY[: 2 * LONG])
            assert (await second.head()).startswith(b"HTTP/1.1 503 ")
            answer = await second.reader.readuntil(b"}}")
            assert json.loads(answer)["error"]["code"] == "too_many_bodies"
            await second.send(BODY[2 * LONG :])
            assert await second.reader.read() == b""
        first.leave()
        await until(lambda: ollad.gateway.bodies.held == 0)
    assert fake.requests == []


async def test_a_claim_alone_takes_no_memory(fake: FakeSGLang) -> None:
    async with running(endpoint(fake)) as ollad, connect(ollad.port) as client:
        await client.send(head(length=32 * 1024 * 1024) + BODY[:1000])
        await until(lambda: len(ollad.gateway.traffic) == 1)
        await asyncio.sleep(0.05)
        assert ollad.gateway.bodies.held <= 64 * 1024
        client.writer.write_eof()
        assert await client.reader.read() == b""
        await until(lambda: not ollad.gateway.traffic)
        assert ollad.gateway.bodies.held == 0
