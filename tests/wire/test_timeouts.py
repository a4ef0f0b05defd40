"""Patience with backends, and its ends."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Proxy
from tests.wire.byte_client import connect, post_bytes, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply

if TYPE_CHECKING:
    from tests.wire.fake_sglang import Exchange, Script

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
ROUTE = "/v1/chat/completions"
EVENT = b"data: {}\n\n"
SELDOM: dict[str, Any] = {"check_interval": 600.0, "check_timeout": 5.0}
SOON = 0.1


async def silent(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


async def head_alone(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD)
    await exchange.client_gone.wait()


async def half_an_event(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD + chunked(EVENT[:5]))
    await exchange.client_gone.wait()


async def one_event(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD + chunked(EVENT))
    await exchange.client_gone.wait()


async def half_a_body(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    await exchange.client_gone.wait()


async def drip(exchange: Exchange) -> None:
    """Always something, never an end."""
    await exchange.send(STREAM_HEAD)
    while not exchange.client_gone.is_set():
        await exchange.send(chunked(EVENT))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("script", "limits", "code"),
    [
        (silent, {"first_byte_timeout": SOON}, "first_byte_timeout"),
        (head_alone, {"first_byte_timeout": SOON}, "first_byte_timeout"),
        (half_an_event, {"idle_timeout": SOON}, "idle_timeout"),
        (half_a_body, {"idle_timeout": SOON}, "idle_timeout"),
        (silent, {"total_timeout": SOON}, "total_timeout"),
        (head_alone, {"total_timeout": SOON}, "total_timeout"),
        (half_a_body, {"total_timeout": SOON}, "total_timeout"),
    ],
)
async def test_a_backend_that_is_too_slow_to_answer_is_504(
    script: Script, limits: dict[str, float], code: str, fake: FakeSGLang
) -> None:
    fake.scripts[ROUTE] = script
    async with running(endpoint(fake, **SELDOM), proxy=Proxy(**limits)) as ollad:  # type: ignore[arg-type]
        body = CHAT if script is half_a_body else STREAM
        response, answer = await ollad.post(ROUTE, body)
        assert response.status == 504
        error = json.loads(answer)["error"]
        assert error["code"] == code
        assert "127.0.0.1" not in error["message"]
        assert len(fake.requests) == 1
        await fake.requests[0].client_gone.wait()
        assert ollad.gateway.runtime.pool.named("one").in_flight == 0


@pytest.mark.parametrize(
    ("script", "limits"),
    [(one_event, {"idle_timeout": SOON}), (drip, {"total_timeout": SOON})],
    ids=["idle", "total"],
)
async def test_a_stream_that_stops_is_cut(
    script: Script, limits: dict[str, float], fake: FakeSGLang
) -> None:
    fake.scripts[ROUTE] = script
    async with (
        running(endpoint(fake, **SELDOM), proxy=Proxy(**limits)) as ollad,  # type: ignore[arg-type]
        connect(ollad.port) as client,
    ):
        await client.send(post_bytes(ROUTE, STREAM))
        head, body = await client.reply()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body.startswith(chunked(EVENT))
        assert body.replace(chunked(EVENT), b"").strip(b"0123456789abcdef\r\n" + EVENT) == b""
        assert not body.endswith(b"0\r\n\r\n")
        await fake.requests[0].client_gone.wait()


@pytest.mark.parametrize("framing", [b"5;", b"0", b"0\r\nX: "], ids=["size", "end", "trailer"])
async def test_framing_that_goes_on_and_on_is_silence(framing: bytes, fake: FakeSGLang) -> None:
    dripped = asyncio.Event()

    async def framing_alone(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(EVENT))
        await asyncio.sleep(0.01)
        await exchange.send(chunked(EVENT))
        await asyncio.sleep(0.01)
        await exchange.send(framing)
        for _ in range(100):
            await asyncio.sleep(SOON / 4)
            if exchange.client_gone.is_set():
                return
            await exchange.send(b"0")
        dripped.set()
        exchange.reset()

    fake.scripts[ROUTE] = framing_alone
    async with (
        running(endpoint(fake, **SELDOM), proxy=Proxy(idle_timeout=SOON)) as ollad,
        connect(ollad.port) as client,
    ):
        await client.send(post_bytes(ROUTE, STREAM))
        _, body = await client.reply()
        await fake.requests[0].client_gone.wait()
    assert body.replace(chunked(EVENT), b"") == b""
    assert not dripped.is_set()


async def test_without_limits_silence_is_borne(fake: FakeSGLang) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.2)
        await exchange.send(STREAM_HEAD)
        await asyncio.sleep(0.2)
        await exchange.send(chunked(EVENT))
        await asyncio.sleep(0.2)
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[ROUTE] = slow
    limitless = Proxy(connect_timeout=0, first_byte_timeout=0, idle_timeout=0, total_timeout=0)
    async with running(endpoint(fake, **SELDOM), proxy=limitless) as ollad:
        response, body = await ollad.post(ROUTE, STREAM)
        assert (response.status, body) == (200, EVENT)


async def test_a_held_reply_may_take_longer_than_the_first_byte(fake: FakeSGLang) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n"
        )
        for byte in b'{"a": 1}':
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0.05)

    fake.scripts[ROUTE] = slow
    async with running(endpoint(fake, **SELDOM), proxy=Proxy(first_byte_timeout=0.2)) as ollad:
        response, _ = await ollad.post(ROUTE, CHAT)
        assert response.status == 200


class _Unanswering:
    """Listens without ever completing a connection, since its queue of them is full."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.socket()]
        listener = self._sockets[0]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            self._sockets.append(filler)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.mark.parametrize(
    "limits",
    [{"connect_timeout": SOON}, {"connect_timeout": 0, "first_byte_timeout": SOON}],
    ids=["connect", "first byte"],
)
async def test_a_backend_that_takes_no_connection_is_passed_over(
    limits: dict[str, float], fake: FakeSGLang
) -> None:
    other = FakeSGLang()
    other.scripts[ROUTE] = reply({"id": "other"})
    await other.start()
    async with running(
        endpoint(fake, "one", priority=100, **SELDOM),
        endpoint(other, "other", priority=1, **SELDOM),
        proxy=Proxy(**limits),  # type: ignore[arg-type]
    ) as ollad:
        await fake.stop()
        unanswering = _Unanswering(fake.port)
        try:
            response, _ = await ollad.post(ROUTE, CHAT)
            assert response.status == 200
            assert response.headers["X-Olla-Endpoint"] == "other"
            await other.stop()
            response, _ = await ollad.post(ROUTE, CHAT)
            assert response.status == 503
            assert "Retry-After" in response.headers
        finally:
            unanswering.close()
            await other.stop()


async def test_the_total_time_spans_all_attempts(fake: FakeSGLang) -> None:
    other = FakeSGLang()
    other.scripts[ROUTE] = silent

    async def late_refusal(exchange: Exchange) -> None:
        await asyncio.sleep(0.1)
        await reply(b"full", "503 Busy")(exchange)

    fake.scripts[ROUTE] = late_refusal
    await other.start()
    async with running(
        endpoint(fake, "one", priority=100, **SELDOM),
        endpoint(other, "other", priority=1, **SELDOM),
        proxy=Proxy(total_timeout=0.3),
    ) as ollad:
        begun = ollad.gateway.clock()
        response, body = await ollad.post(ROUTE, CHAT)
        assert ollad.gateway.clock() - begun >= 0.29
        assert response.status == 504
        assert json.loads(body)["error"]["code"] == "total_timeout"
        assert len(other.requests) == 1
        await until(lambda: all(b.in_flight == 0 for b in ollad.gateway.runtime.pool))
    await other.stop()
