"""A client that goes away ends its generation, at once and without a trace of trouble."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.byte_client import connect, post_bytes, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    FakeSGLang,
    chunked,
    reply,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        Script,
    )

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
ROUTE = "/v1/chat/completions"
EVENT = b"data: {}\n\n"
SELDOM: dict[str, Any] = {"check_interval": 600.0, "check_timeout": 5.0}


async def silent(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


async def head_alone(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD)
    await exchange.client_gone.wait()


async def one_event(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD + chunked(EVENT))
    await exchange.client_gone.wait()


async def half_a_body(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    await exchange.client_gone.wait()


async def flood(exchange: Exchange) -> None:
    """As much as anybody takes."""
    await exchange.send(STREAM_HEAD)
    piece = chunked(EVENT * 1000)
    try:
        while True:
            await exchange.send(piece)
    except ConnectionError:
        exchange.client_gone.set()


@pytest.fixture
async def troubles() -> AsyncIterator[list[dict[str, Any]]]:
    """What reached the event loop's exception handler, such as exceptions nobody retrieved."""
    found: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect()
    await asyncio.sleep(0)
    assert found == []


@pytest.mark.parametrize(
    ("script", "body"),
    [
        (silent, CHAT),
        (silent, STREAM),
        (head_alone, STREAM),
        (half_a_body, CHAT),
        (one_event, STREAM),
        (flood, STREAM),
    ],
    ids=[
        "before a reply",
        "before a stream",
        "after the head",
        "while held",
        "mid-stream",
        "flood",
    ],
)
@pytest.mark.usefixtures("troubles")
async def test_the_backends_connection_is_closed_and_nothing_sent_again(
    script: Script, body: Any
) -> None:
    one, other = FakeSGLang(), FakeSGLang()
    one.scripts[ROUTE], other.scripts[ROUTE] = script, reply({})
    async with (
        serving(one, other),
        running(
            endpoint(one, "one", priority=100, **SELDOM),
            endpoint(other, "other", priority=1, **SELDOM),
        ) as ollad,
        connect(ollad.port) as client,
    ):
        await client.send(post_bytes(ROUTE, body))
        await until(lambda: len(one.requests) == 1)
        if script in (one_event, flood):
            await client.head()
        else:
            await asyncio.sleep(0.05)
        backend = ollad.gateway.runtime.pool.named("one")
        assert backend.in_flight == 1
        client.leave()
        await one.requests[0].client_gone.wait()
        await until(lambda: backend.in_flight == 0)
        assert backend.overloaded_until == 0.0
        assert not other.requests
        assert len(one.requests) == 1
        registry = ollad.gateway.telemetry.registry
        assert (
            registry.get_sample_value(
                "ollad_upstream_attempts_total",
                {"family": "chat", "backend": "one", "outcome": "client_gone"},
            )
            == 1
        )


@pytest.mark.usefixtures("troubles")
async def test_a_backend_that_reads_no_request_is_left_too(
    ollad: Running, fake: FakeSGLang
) -> None:
    fake.deaf.add(ROUTE)
    big = {**STREAM, "padding": "x" * (8 * 1024 * 1024)}
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, big))
        await until(lambda: len(fake.requests) == 1)
        client.leave()
        backend = ollad.gateway.runtime.pool.named("one")
        await until(lambda: backend.in_flight == 0)


async def test_a_client_that_leaves_is_not_taken_for_a_timeout(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = silent
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, CHAT))
        await until(lambda: len(fake.requests) == 1)
        client.leave()
    registry = ollad.gateway.telemetry.registry

    def requests(code: str) -> float | None:
        return registry.get_sample_value(
            "ollad_requests_total", {"family": "chat", "model": "tiny", "code": code}
        )

    await until(lambda: requests("499") == 1)
    assert requests("504") is None


async def test_other_streams_go_on_when_one_client_leaves(fake: FakeSGLang, ollad: Running) -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(EVENT))
        await go.wait()
        await exchange.send(chunked(EVENT) + b"0\r\n\r\n")

    fake.scripts[ROUTE] = script
    async with connect(ollad.port) as leaving, connect(ollad.port) as staying:
        for client in (leaving, staying):
            await client.send(post_bytes(ROUTE, STREAM, headers="Connection: close\r\n"))
            await client.head()
        leaving.leave()
        await until(lambda: any(each.client_gone.is_set() for each in fake.requests))
        go.set()
        assert await staying.reader.read() == chunked(EVENT) * 2 + b"0\r\n\r\n"
