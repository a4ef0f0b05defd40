"""The head of a request has to arrive in time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from ollad.patience import HeadTimeoutError, PatientHandler
from tests.wire.raw import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
LONG = 3600.0


class Handler(PatientHandler):
    """Says what it would answer a request that it did not understand."""

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        assert isinstance(exc, HeadTimeoutError)
        response = web.Response(status=exc.code)
        response.force_close()
        return response


@asynccontextmanager
async def serving(seconds: float, **options: Any) -> AsyncIterator[int]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: Handler(server, loop=loop, head_seconds=seconds, access_log=None, **options),
        "127.0.0.1",
        0,
    )
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await runner.cleanup()


async def test_a_client_that_says_nothing_is_left_without_a_word() -> None:
    async with serving(0.01) as port, connected(port) as (reader, _):
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"G", HEAD, HEAD + b"X-Slow: "])
async def test_a_head_that_does_not_end_is_408(sent: bytes) -> None:
    async with serving(0.05) as port, connected(port) as (reader, writer):
        writer.write(sent)
        assert (await reader.read()).startswith(b"HTTP/1.0 408 ")


async def test_a_byte_now_and_then_does_not_stop_the_clock() -> None:
    async with serving(0.2) as port, connected(port) as (reader, writer):
        writer.write(HEAD + b"X-Slow: ")
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.0 408 ")


async def test_a_later_head_has_as_long_as_the_first() -> None:
    async with serving(0.1) as port, connected(port) as (reader, writer):
        writer.write(HEAD + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(HEAD)
        assert (await reader.read()).startswith(b"HTTP/1.0 408 ")


async def test_the_time_between_requests_and_that_of_a_body_are_not_the_heads() -> None:
    async with serving(0.05) as port, connected(port) as (reader, writer):
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
            await asyncio.sleep(0.15)
            writer.write(b"cd")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(4) == b"abcd"
            await asyncio.sleep(0.15)


async def test_a_head_in_pieces_that_comes_in_time_is_served() -> None:
    async with serving(LONG) as port, connected(port) as (reader, writer):
        for byte in HEAD + b"Connection: close\r\n\r\n":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
