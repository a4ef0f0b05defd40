"""A reply that broke off never passes for a whole one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.wire.byte_client import connect, post_bytes, until
from tests.wire.fake_sglang import STREAM_HEAD, chunked

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang, Script

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
ROUTE = "/v1/chat/completions"
OPAQUE = "/tokenize"
EVENT = b'data: {"n": 1}\n\n'
LONG = bytes(range(256)) * 4096 * 2  # 2 MiB


def breaks_off(*parts: bytes, reset: bool = False) -> Script:
    """Sends the parts, then ends the connection."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)
            await asyncio.sleep(0.02)
        if reset:
            exchange.reset()
        else:
            exchange.writer.close()

    return script


def sized(length: int, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    return head.encode()


CHUNKED_JSON = STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")


@pytest.mark.parametrize(
    "parts",
    [
        (sized(100), b'{"a": 1'),
        (sized(100), b""),
        (CHUNKED_JSON, chunked(b'{"a": 1}')),
        (CHUNKED_JSON, b"zz\r\n"),
        (CHUNKED_JSON, chunked(b"{"), b"-1\r\n}"),
    ],
    ids=["sized", "sized, nothing", "chunked", "bad chunk", "bad later chunk"],
)
async def test_half_a_held_reply_is_502(
    parts: tuple[bytes, ...], fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = breaks_off(*parts)
    response, body = await ollad.post(ROUTE, CHAT)
    assert response.status == 502
    assert json.loads(body)["error"]["code"] == "backend_error"
    assert len(fake.requests) == 1


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("bad", [b"", b"zz\r\n", b"8\r\nab"], ids=["end", "bad chunk", "in chunk"])
async def test_a_stream_that_breaks_off_lacks_its_last_chunk(
    reset: bool, bad: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = breaks_off(STREAM_HEAD + chunked(EVENT), bad, reset=reset)
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, STREAM))
        head, body = await client.reply()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert body.startswith(chunked(EVENT))
    assert not body.endswith(b"0\r\n\r\n")
    await until(lambda: ollad.gateway.runtime.pool.named("one").in_flight == 0)


async def test_an_sdk_notices_a_stream_that_breaks_off(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = breaks_off(STREAM_HEAD + chunked(EVENT))
    with pytest.raises(aiohttp.ClientPayloadError):
        await ollad.post(ROUTE, STREAM)


async def test_a_sized_reply_that_breaks_off_is_shorter_than_it_said(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = breaks_off(sized(len(LONG)), LONG[:-1])
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, {"prompt": "hi"}))
        head, body = await client.reply()
    assert f"Content-Length: {len(LONG)}\r\n".encode() in head
    assert body == LONG[:-1]


@pytest.mark.parametrize("size", [len(EVENT), 1024 * 1024])
async def test_an_old_client_has_its_connection_reset_after_what_came(
    size: int, fake: FakeSGLang, ollad: Running
) -> None:
    """HTTP/1.0 ends a reply of unknown length with the connection, so the end must be an error."""
    data = EVENT * (size // len(EVENT))
    fake.scripts[ROUTE] = breaks_off(STREAM_HEAD + chunked(data))
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, STREAM, version="1.0"))
        head = await client.head()
        assert b"Transfer-Encoding" not in head
        assert await client.reader.readexactly(len(data)) == data
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_slow_client_gets_all_that_came_before_the_end(
    fake: FakeSGLang, ollad: Running
) -> None:
    data = LONG * 2
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        exchange.writer.write(chunked(data))
        exchange.writer.close()
        gone.set()

    fake.scripts[ROUTE] = script
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, STREAM))
        await gone.wait()
        await client.head()
        await asyncio.sleep(0.1)  # everybody's buffers are full now
        body = bytearray()
        while line := await client.reader.readline():
            body += await client.reader.readexactly(int(line, 16))
            assert await client.reader.readexactly(2) == b"\r\n"
        assert body == data


async def test_a_connection_that_was_cut_is_counted_and_logged(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = breaks_off(STREAM_HEAD + chunked(EVENT))
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, STREAM))
        await client.reply()
    registry = ollad.gateway.telemetry.registry

    def aborts() -> float | None:
        return registry.get_sample_value(
            "ollad_stream_aborts_total", {"family": "chat", "side": "upstream"}
        )

    await until(lambda: aborts() == 1)
