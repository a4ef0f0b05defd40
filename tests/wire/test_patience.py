"""The head of a request has to arrive in time, and so does the next request."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ollad.config.schema import Server
from tests.wire.byte_client import connect
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import reply
from tests.wire.relay.replies import OPAQUE, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.byte_client import ByteClient
    from tests.wire.fake_sglang import Exchange, FakeSGLang

HEAD = b"GET /version HTTP/1.1\r\nHost: x\r\n"
UNKNOWN = HEAD.replace(b"version", b"nothing/here")
LONG = 3600.0


@asynccontextmanager
async def client_of(
    fake: FakeSGLang, header: float = LONG, keepalive: float = LONG
) -> AsyncIterator[ByteClient]:
    fake.scripts[OPAQUE] = reply({})
    server = Server(header_timeout=header, keepalive_timeout=keepalive)
    async with running(endpoint(fake), server=server) as ollad, connect(ollad.port) as client:
        yield client


async def is_served(client: ByteClient, request: bytes, status: int = 200) -> None:
    await client.send(request)
    assert (await read_reply(client.reader)).status == status


async def test_a_client_that_says_nothing_is_left_without_a_word(fake: FakeSGLang) -> None:
    async with client_of(fake, header=0.01) as client:
        assert await client.reader.read() == b""


@pytest.mark.parametrize("sent", [b"G", HEAD, HEAD + b"X-Slow: ", post()[:40]])
async def test_a_head_that_does_not_end_is_408(sent: bytes, fake: FakeSGLang) -> None:
    async with client_of(fake, header=0.05) as client:
        await is_served(client, sent, 408)
        assert await client.reader.read() == b""


async def test_a_byte_now_and_then_does_not_stop_the_clock(fake: FakeSGLang) -> None:
    async with client_of(fake, header=0.2) as client:
        client.writer.write(HEAD + b"X-Slow: ")
        answer = asyncio.create_task(read_reply(client.reader))
        while not answer.done():
            client.writer.write(b"x")
            await asyncio.sleep(0.01)
        assert (await answer).status == 408


@pytest.mark.parametrize("sent", [b"G", HEAD, post()[:40]])
@pytest.mark.parametrize(
    "before",
    [[(HEAD + b"\r\n", 200)], [(post(), 200)] * 3, [(UNKNOWN + b"\r\n", 404)]],
    ids=["known", "fast", "left to aiohttp"],
)
async def test_a_later_head_has_as_long_as_the_first(
    before: list[tuple[bytes, int]], sent: bytes, fake: FakeSGLang
) -> None:
    async with client_of(fake, header=0.1) as client:
        for request, status in before:
            await is_served(client, request, status)
            await asyncio.sleep(0.15)
        await is_served(client, sent, 408)


async def test_the_time_between_requests_and_that_of_a_body_are_not_the_heads(
    fake: FakeSGLang,
) -> None:
    async with client_of(fake, header=0.05) as client:
        for _ in range(3):
            head, body = post()[:-4], post()[-4:]
            await client.send(head)
            await asyncio.sleep(0.15)
            await is_served(client, body)
            await asyncio.sleep(0.15)


async def test_a_head_in_pieces_that_comes_in_time_is_served(fake: FakeSGLang) -> None:
    async with client_of(fake) as client:
        for byte in HEAD + b"Connection: close\r\n\r\n":
            await client.send(bytes((byte,)))
        assert (await read_reply(client.reader)).status == 200


@pytest.mark.parametrize(
    "before",
    [[(HEAD + b"\r\n", 200)], [(post(), 200)] * 3, [(UNKNOWN + b"\r\n", 404)]],
    ids=["known", "fast", "left to aiohttp"],
)
async def test_a_client_that_asks_for_nothing_more_is_left_without_a_word(
    before: list[tuple[bytes, int]], fake: FakeSGLang
) -> None:
    async with client_of(fake, keepalive=0.05) as client:
        for request, status in before:
            await is_served(client, request, status)
        assert await client.reader.read() == b""


async def slow(exchange: Exchange) -> None:
    await asyncio.sleep(0.2)
    await reply({})(exchange)


async def test_waiting_for_a_backend_is_not_idling(fake: FakeSGLang) -> None:
    async with client_of(fake, header=0.05, keepalive=0.05) as client:
        fake.scripts[OPAQUE] = slow
        for _ in range(3):
            await is_served(client, post())
