"""A slow client costs little memory and nobody else's time; a fast backend starves nobody."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ollad.relay.downstream import Downstream
from ollad.relay.underway import Exchange
from ollad.relay.upstream import Connection
from tests.compiled import text_only
from tests.wire.byte_client import connect, until
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply
from tests.wire.relay.replies import LONE, OPAQUE, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange as Asked
    from tests.wire.fake_sglang import FakeSGLang

EVENT = b"data: " + b"x" * 1000 + b"\n\n"
MOST = 256 * 1024


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that waited in ollad for a client, after each write for one."""
    sizes: list[int] = []
    start, pass_on = Downstream.start, Downstream.pass_on
    receive, chunks = Connection.data_received, Exchange.chunks_received

    def note(reply: Downstream | None) -> None:
        if reply is not None:
            sizes.append(reply.transport.get_write_buffer_size())

    def noting_start(self: Downstream, first: bytes) -> None:
        start(self, first)
        note(self)

    def noting_pass_on(self: Downstream, data: bytes) -> None:
        pass_on(self, data)
        note(self)

    def noting_receive(self: Connection, data: bytes) -> None:
        receiver = self._receiver
        receive(self, data)
        if isinstance(receiver, Exchange):
            note(receiver._reply)

    def noting_chunks(self: Exchange, whole: bytes, data: bytes, last: bool) -> None:
        chunks(self, whole, data, last)
        note(self._reply)

    monkeypatch.setattr(Downstream, "start", noting_start)
    monkeypatch.setattr(Downstream, "pass_on", noting_pass_on)
    monkeypatch.setattr(Connection, "data_received", noting_receive)
    monkeypatch.setattr(Exchange, "chunks_received", noting_chunks)
    return sizes


@asynccontextmanager
async def sluggish(port: int) -> AsyncIterator[socket.socket]:
    """A client that reads nothing by itself and whose kernel keeps little for it."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        yield client


def flood(framing: str) -> tuple[bytes, bytes]:
    """Head and piece of an endless reply."""
    if framing == "events":
        return STREAM_HEAD, chunked(EVENT * 32)
    if framing == "sized":
        return b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 32_000
    return b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 32_000


@pytest.mark.parametrize("framing", ["events", "sized", "until close"])
@text_only
async def test_a_client_that_does_not_read_stops_the_backend(
    framing: str, held: list[int], fake: FakeSGLang, ollad: Running
) -> None:
    sent = 0

    async def endless(exchange: Asked) -> None:
        nonlocal sent
        head, piece = flood(framing)
        await exchange.send(head)
        while not exchange.client_gone.is_set():
            await exchange.send(piece)
            sent += len(piece)
            await asyncio.sleep(0)

    fake.scripts[OPAQUE] = endless
    async with sluggish(ollad.port) as client:
        await asyncio.get_running_loop().sock_sendall(client, post())
        seen = -1
        while sent != seen:  # until the backend is stuck
            seen = sent
            await asyncio.sleep(0.1)
        assert sent > 0
        assert max(held) <= MOST
        count = len(held)
        # what the client takes makes room for more
        while len(held) < count + 3:
            await asyncio.get_running_loop().sock_recv(client, 100_000)
        assert max(held) <= MOST
    await until(lambda: ollad.gateway.runtime.pool.named("one").in_flight == 0)


@text_only
async def test_a_client_that_asks_on_without_reading_is_not_served_on(
    held: list[int], fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[LONE] = reply(b"x" * 60_000, content_type="text/plain")
    request = f"GET /olla/sglang{LONE} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with sluggish(ollad.port) as client:
        await asyncio.get_running_loop().sock_sendall(client, request * 200)
        seen = -1
        while len(fake.requests) != seen:
            seen = len(fake.requests)
            await asyncio.sleep(0.1)
        assert 0 < seen < 200
        assert max(held) <= MOST


async def test_other_streams_are_as_fast_as_ever(fake: FakeSGLang, ollad: Running) -> None:
    """While slow clients stand still, every event of another stream comes before the next."""
    seen = asyncio.Semaphore(0)

    async def endless(exchange: Asked) -> None:
        await exchange.send(STREAM_HEAD)
        while not exchange.client_gone.is_set():
            await exchange.send(chunked(EVENT * 32))
            await asyncio.sleep(0)

    async def in_turn(exchange: Asked) -> None:
        await exchange.send(STREAM_HEAD)
        for _ in range(50):
            await exchange.send(chunked(EVENT))
            await seen.acquire()
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[OPAQUE] = endless
    loop = asyncio.get_running_loop()
    async with sluggish(ollad.port) as one, sluggish(ollad.port) as two, connect(ollad.port) as it:
        for client in (one, two):
            await loop.sock_sendall(client, post())
        await until(lambda: len(fake.requests) == 2)
        fake.scripts[OPAQUE] = in_turn
        it.writer.write(post())
        await it.head()
        for _ in range(50):
            await it.reader.readexactly(len(chunked(EVENT)))
            seen.release()
        assert await it.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_fast_backend_does_not_keep_new_clients_out(
    fake: FakeSGLang, ollad: Running
) -> None:
    """Clients come, are served and go while streams rush through at full speed."""
    stop = asyncio.Event()
    rushing = 0

    async def rush(exchange: Asked) -> None:
        await exchange.send(STREAM_HEAD)
        while not stop.is_set():
            await exchange.send(chunked(EVENT * 60))
        await exchange.send(b"0\r\n\r\n")

    async def drink() -> bytes:
        nonlocal rushing
        async with connect(ollad.port) as client:
            client.writer.write(post(headers="Connection: close\r\n"))
            await client.head()
            rushing += 1
            last = b""
            while data := await client.reader.read(1 << 20):
                last = data
            return last

    fake.scripts[OPAQUE] = rush
    fake.scripts[LONE] = reply(b"good")
    drinkers = [asyncio.create_task(drink()) for _ in range(4)]
    await until(lambda: rushing == 4)
    for _ in range(20):
        async with connect(ollad.port) as client:
            line = f"GET /olla/sglang{LONE} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            client.writer.write(line)
            assert (await read_reply(client.reader)).body == b"good"
        assert not any(drinker.done() for drinker in drinkers)
    stop.set()
    assert all(last.endswith(b"0\r\n\r\n") for last in await asyncio.gather(*drinkers))


async def test_a_slow_client_gets_every_byte(fake: FakeSGLang, ollad: Running) -> None:
    events = [b"data: %d %b\n\n" % (number, b"y" * 5000) for number in range(400)]

    async def all_at_once(exchange: Asked) -> None:
        await exchange.send(STREAM_HEAD)
        for event in events:
            await exchange.send(chunked(event))
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[OPAQUE] = all_at_once
    reader, writer = await asyncio.open_connection("127.0.0.1", ollad.port, limit=4096)
    for _ in range(2):
        writer.write(post())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        got = b""
        while size := int((await reader.readline())[:-2], 16):
            got += (await reader.readexactly(size + 2))[:-2]
            if len(got) % 7 == 0:
                await asyncio.sleep(0.001)
        assert await reader.readline() == b"\r\n"
        assert got == b"".join(events)
    writer.close()
    await writer.wait_closed()
