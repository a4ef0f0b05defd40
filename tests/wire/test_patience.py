"""The head of a request has to arrive in time, and so does the next request."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ollad.config.schema import Server
from ollad.connection import Connection
from tests.wire.byte_client import connect, post_bytes, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import reply
from tests.wire.relay.replies import OPAQUE, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.byte_client import ByteClient
    from tests.wire.fake_sglang import Exchange, FakeSGLang

HEAD = b"GET /version HTTP/1.1\r\nHost: x\r\n"
UNKNOWN = HEAD.replace(b"version", b"nothing/here")
CHAT = "/v1/chat/completions"
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


async def test_a_request_waits_as_long_as_the_client_takes_for_the_reply_before_it(
    fake: FakeSGLang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly it takes that: it is not idle."""
    connection_made = Connection.connection_made

    def with_little_room(self: Connection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        connection_made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", with_little_room)
    choice = {"message": {"role": "assistant", "content": "x" * 900_000}, "finish_reason": "stop"}
    long = {"object": "chat.completion", "choices": [choice]}
    begun, go = asyncio.Event(), asyncio.Event()

    async def held(exchange: Exchange) -> None:
        begun.set()
        await go.wait()
        await reply(long)(exchange)

    server = Server(keepalive_timeout=0.1)
    async with running(endpoint(fake), server=server) as ollad:
        loop = asyncio.get_running_loop()
        asked = post_bytes(CHAT, {"model": "tiny", "messages": []})
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", ollad.port))
            fake.scripts[CHAT] = [reply({"n": 1}), held, reply({"n": 3})]
            await loop.sock_sendall(client, asked)
            await loop.sock_recv(client, 4096)
            await loop.sock_sendall(client, asked)
            await begun.wait()
            await loop.sock_sendall(client, asked)
            await asyncio.sleep(0.05)
            go.set()
            await asyncio.sleep(0.4)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            received = b""
            while data := await loop.sock_recv(client, 1 << 20):
                received += data
    assert received.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("sent", [b"G", HEAD, post()[:40]])
async def test_a_head_that_began_before_a_reply_has_its_time_from_that_on(
    sent: bytes, fake: FakeSGLang
) -> None:
    async with client_of(fake, header=0.1) as client:
        await is_served(client, post())
        fake.scripts[OPAQUE] = slow
        await client.send(post())
        await until(lambda: len(fake.requests) == 2)
        await client.send(sent)
        assert (await read_reply(client.reader)).status == 200
        assert (await read_reply(client.reader)).status == 408


async def slow(exchange: Exchange) -> None:
    await asyncio.sleep(0.2)
    await reply({})(exchange)


async def test_waiting_for_a_backend_is_not_idling(fake: FakeSGLang) -> None:
    async with client_of(fake, header=0.05, keepalive=0.05) as client:
        fake.scripts[OPAQUE] = slow
        for _ in range(3):
            await is_served(client, post())
