"""Bytes leave in the moment they come, and aiohttp is as this relies on."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from ollad.outgoing import SentReply
from ollad.relay.downstream import Downstream
from ollad.relay.exchange import ReplyHead
from ollad.relay.upstream import Connection
from tests.compiled import text_only
from tests.wire.byte_client import connect, until
from tests.wire.fake_sglang import STREAM_HEAD, chunked
from tests.wire.relay.replies import OPAQUE, ask, in_pieces, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang

EVENTS = [b"data: %d\n\n" % number for number in range(20)]


class Segments(asyncio.Protocol):
    """What a client's socket yields, read by read."""

    def __init__(self) -> None:
        self.got: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.got.append(data)


async def test_each_event_arrives_before_the_next_is_sent_and_in_a_segment_of_its_own(
    fake: FakeSGLang, ollad: Running
) -> None:
    segments = Segments()

    async def in_turn(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for count, event in enumerate(EVENTS):
            await exchange.send(chunked(event))
            await until(lambda count=count: len(segments.got) > count)  # type: ignore[misc]
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[OPAQUE] = in_turn
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: segments, "127.0.0.1", ollad.port)
    transport.write(post())
    await until(lambda: segments.got[-1:] == [b"0\r\n\r\n"])
    head, _, first = segments.got[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [first, *segments.got[1:-1]] == [chunked(event) for event in EVENTS]
    transport.abort()


async def test_the_head_waits_for_no_more_than_the_first_event(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(
        STREAM_HEAD, *[b"%x\r\n%b\r\n" % (1, bytes([c])) for c in b"data: 1\n"]
    )
    async with connect(ollad.port) as client:
        client.writer.write(post())
        await until(lambda: bool(fake.requests))
        await asyncio.sleep(0.05)
        assert not client.reader._buffer  # type: ignore[attr-defined]
        await fake.requests[0].send(chunked(b"\n"))
        await client.head()
        assert await client.reader.readuntil(b"\n\n\r\n") == chunked(b"data: 1\n\n")


@text_only
async def test_nagle_is_off_on_both_sides(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[int] = []
    start, send = Downstream.start, Connection.send

    def note(transport: asyncio.Transport | None) -> None:
        assert transport is not None
        connection = transport.get_extra_info("socket")
        delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def noting_start(self: Downstream, first: bytes) -> None:
        note(self.transport)
        start(self, first)

    def noting_send(self: Connection, *args: object, **options: object) -> None:
        note(self._transport)
        send(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Downstream, "start", noting_start)
    monkeypatch.setattr(Connection, "send", noting_send)
    fake.scripts[OPAQUE] = in_pieces(STREAM_HEAD + chunked(EVENTS[0]) + b"0\r\n\r\n")
    async with connect(ollad.port) as client:
        await ask(client.reader, client.writer, post())
    assert len(delays) == 2
    assert all(delays)


HEAD = ReplyHead(200, b"OK", (), "", None)


class Canary:
    """A bare aiohttp server that answers as the relay does."""

    def __init__(self) -> None:
        self.port = 0
        self.paused: list[bool] = []
        self.relieved = asyncio.Event()
        self.body = b"x"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        reply = Downstream(request, HEAD, b"X-A: b\r\n")
        reply.start(self.body)
        self.paused.append(reply.congested)
        await request.protocol._drain_helper()
        self.paused.append(reply.congested)
        self.relieved.set()
        reply.finish()
        return SentReply(200, keep_alive=reply.keep_alive)


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    made = Canary()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


async def test_aiohttp_leaves_a_response_alone_that_says_it_has_been_sent(canary: Canary) -> None:
    async with connect(canary.port) as client:
        for _ in range(3):
            client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = await read_reply(client.reader)
            assert reply.headers == (("X-A", "b"), ("Transfer-Encoding", "chunked"))
            assert reply.chunks == (b"x",)
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await read_reply(client.reader)).header("connection") == "close"
        assert await client.reader.read() == b""


async def test_aiohttp_tells_of_a_client_that_takes_bytes_slowly(canary: Canary) -> None:
    canary.body = b"x" * (32 * 1024 * 1024)
    async with connect(canary.port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        await until(lambda: bool(canary.paused))
        assert canary.paused == [True]
        assert not canary.relieved.is_set()
        await client.reader.readuntil(b"\r\n")
        await client.reader.readexactly(len(canary.body))
        await canary.relieved.wait()
        assert canary.paused == [True, False]


async def test_aiohttp_ends_the_wait_for_a_slow_client_that_goes_away(canary: Canary) -> None:
    canary.body = b"x" * (32 * 1024 * 1024)
    async with connect(canary.port) as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        await until(lambda: canary.paused == [True])
    # the fixture waits for the handler, and every test for its tasks
