from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from ollad.health import fetch as module
from ollad.health.fetch import fetch, open_client
from ollad.tls import BackendTls
from tests.wire.health import fake
from tests.wire.health.watch import endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollad.health.fetch import Reply


async def get(url: str, seconds: float = 5.0) -> Reply:
    async with open_client(BackendTls({})) as client:
        return await fetch(client, endpoint(url), "/v1/models?x=1", seconds=seconds)


@asynccontextmanager
async def speaking(reply: bytes) -> AsyncIterator[str]:
    """A server that says this to everyone and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_reply_is_taken_with_its_status_and_body() -> None:
    async with fake.serving({"/v1/models": fake.document([1])}) as server:
        reply = await get(server.url)
    assert (reply.ok, reply.json()) == (True, [1])


async def test_the_endpoint_s_base_path_comes_before_the_route() -> None:
    async with fake.serving({"/base/v1/models": fake.document([1])}) as server:
        assert (await get(server.url + "/base/")).ok


async def test_a_body_over_the_limit_is_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 100)
    async with fake.serving({"/v1/models": fake.raw("x" * 101)}) as server:
        reply = await get(server.url)
    assert (reply.status, reply.problem) == (0, "a body over 100 bytes on /v1/models")


async def test_silence_is_reported_with_its_length() -> None:
    async with fake.serving({"/v1/models": fake.hang}) as server:
        reply = await get(server.url, 0.05)
    assert reply.problem == "no answer within 0.05 s on /v1/models"


async def test_refused_is_told_from_every_other_failure() -> None:
    async with fake.serving({}) as server:
        url = server.url
    reply = await get(url)
    assert reply.refused
    assert reply.problem == "connection refused on /v1/models"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"", "connection closed on /v1/models"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            "a broken exchange (ClientPayloadError)",
        ),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "a broken exchange (ClientResponseError)"),
    ],
)
async def test_a_broken_exchange_is_no_reply_and_no_refusal(reply: bytes, problem: str) -> None:
    async with speaking(reply) as url:
        got = await get(url)
    assert not got.refused
    assert got.status == 0
    assert got.problem.startswith(problem)
    assert "127.0.0.1" not in got.problem


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), "a broken exchange (OSError)"),
        (ConnectionResetError(), "connection closed"),
        (ValueError("no address here: 10.0.0.1"), "a broken exchange (ValueError)"),
    ],
)
def test_no_message_of_an_exception_is_passed_on(error: Exception, text: str) -> None:
    assert module._describe(error) == (text, False)
