"""A connection is kept for the next request only while it is certain to be clean."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from ollad.config.schema import EndpointTls, Proxy
from ollad.relay import pool as pool_module
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.replies import HoldSink
from tests.wire.byte_client import connect, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import reply
from tests.wire.relay.replies import OPAQUE, ask, in_pieces, post

if TYPE_CHECKING:
    import pytest

    from ollad.relay.exchange import Outcome
    from ollad.relay.pool import ConnectionPool
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang

GOOD = reply(b"good", content_type="text/plain")
REQUEST = UpstreamRequest("POST", OPAQUE, b"", b"{}")


def pool_of(ollad: Running, fake: FakeSGLang) -> ConnectionPool:
    return ollad.gateway.dispatcher.relay._pools.pool(fake.url, EndpointTls())


async def forward(ollad: Running, *, request: UpstreamRequest = REQUEST) -> Outcome:
    backend = ollad.gateway.runtime.pool.named("one")
    return await ollad.gateway.dispatcher.relay.forward(request, backend, HoldSink(), Proxy())


async def idle_connections(ollad: Running, fake: FakeSGLang, count: int) -> None:
    """Have as many idle connections."""
    together = asyncio.Event()

    async def wait_for_all(exchange: Exchange) -> None:
        if len(fake.requests) == count:
            together.set()
        await together.wait()
        await GOOD(exchange)

    fake.scripts[OPAQUE] = wait_for_all
    await asyncio.gather(*(forward(ollad) for _ in range(count)))
    fake.scripts[OPAQUE] = GOOD
    assert len(pool_of(ollad, fake)._idle) == count
    fake.requests.clear()


def test_ours_are_closed_before_those_of_the_backend() -> None:
    assert pool_module.IDLE_SECONDS + pool_module._SWEEP_SECONDS < 5  # uvicorn's patience


async def test_the_one_used_last_is_used_first(fake: FakeSGLang, ollad: Running) -> None:
    await idle_connections(ollad, fake, 3)
    for _ in range(3):
        await forward(ollad)
    assert len({id(request.writer) for request in fake.requests}) == 1


async def test_an_idle_connection_is_closed_in_time(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", 0.01)
    fake.scripts[OPAQUE] = GOOD
    await forward(ollad)
    pool = pool_of(ollad, fake)
    assert len(pool) == 1
    await until(lambda: len(pool) == 0)
    await until(fake.requests[0].reader.at_eof)
    assert pool._sweep is None
    assert (await forward(ollad)).body == b"good"


async def test_a_connection_that_dies_idle_is_noticed_at_once(
    fake: FakeSGLang, ollad: Running
) -> None:
    await idle_connections(ollad, fake, 3)
    pool = pool_of(ollad, fake)
    for connection in tuple(fake._tasks):
        connection.cancel()
    await until(lambda: len(pool) == 0)
    outcome = await forward(ollad)
    assert (outcome.fault, outcome.body) == (None, b"good")


async def test_one_that_ends_unnoticed_by_the_loop_is_not_used(
    fake: FakeSGLang, ollad: Running
) -> None:
    """The kernel knows of the end before the event loop has read it."""
    fake.scripts[OPAQUE] = GOOD
    await forward(ollad)
    number = fake.requests[0].writer.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(number)) as theirs:
        theirs.shutdown(socket.SHUT_WR)
    outcome = await forward(ollad)
    assert (outcome.fault, outcome.body) == (None, b"good")
    assert fake.requests[0].writer is not fake.requests[1].writer


async def test_one_that_dies_before_the_first_byte_is_replaced_by_a_fresh_one(
    fake: FakeSGLang,
) -> None:
    async with running(endpoint(fake), proxy=Proxy(attempts=1)) as ollad:
        await idle_connections(ollad, fake, 5)
        stale = set(pool_of(ollad, fake)._idle)

        async def die_if_kept(exchange: Exchange) -> None:
            if len(fake.requests) == 1:
                exchange.reset()
            else:
                await GOOD(exchange)

        fake.scripts[OPAQUE] = die_if_kept
        async with connect(ollad.port) as client:
            answer = await ask(client.reader, client.writer, post())
        assert (answer.status, answer.body) == (200, b"good")
        assert len(fake.requests) == 2
        left = set(pool_of(ollad, fake)._idle)
        assert not left & stale  # those that were idle with it are as old


async def test_the_fresh_one_is_asked_only_once(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[OPAQUE] = GOOD
    await forward(ollad)
    fake.requests.clear()

    async def die(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[OPAQUE] = die
    async with connect(ollad.port) as client:
        assert (await ask(client.reader, client.writer, post())).status == 502
    assert len(fake.requests) == 2


async def test_a_fresh_connection_that_dies_is_a_failure(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[OPAQUE] = in_pieces(reset=True)
    assert (await forward(ollad)).fault is Fault.RESET
    assert len(fake.requests) == 1
    assert len(pool_of(ollad, fake)) == 0


async def test_a_reply_that_overtakes_its_request_ends_the_connection(
    fake: FakeSGLang, ollad: Running
) -> None:
    """The rest of the request would be read as the next one."""
    fake.hasty[OPAQUE] = b"HTTP/1.1 413 Much\r\ncontent-length: 0\r\n\r\n"
    large = UpstreamRequest("POST", OPAQUE, b"", b"x" * (32 * 1024 * 1024))
    outcome = await forward(ollad, request=large)
    assert outcome.head is not None
    assert outcome.head.status == 413
    assert len(pool_of(ollad, fake)) == 0


async def test_a_paused_reply_leaves_a_connection_that_is_read(
    fake: FakeSGLang, ollad: Running
) -> None:
    """A slow client makes ollad stop reading; the next client's reply is read all the same."""
    big = b"x" * (8 * 1024 * 1024)
    fake.scripts[OPAQUE] = [reply(big, content_type="text/plain"), GOOD]
    async with connect(ollad.port) as slow:
        slow.writer.write(post())
        await slow.head()
        await until(lambda: len(slow.reader._buffer) > 100_000)  # type: ignore[attr-defined]
        assert len(await slow.reader.readexactly(len(big))) == len(big)
    async with connect(ollad.port) as client:
        assert (await ask(client.reader, client.writer, post())).body == b"good"


async def test_a_connection_lost_while_it_is_opened_is_not_counted(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = type(asyncio.get_running_loop())
    connect_well = loop.create_connection

    async def lose(*args: Any, **options: Any) -> Any:
        transport, connection = await connect_well(*args, **options)
        transport.abort()
        await until(lambda: not connection.open)
        return transport, connection

    monkeypatch.setattr(loop, "create_connection", lose)
    pool = pool_of(ollad, fake)
    connection = await pool.connect()
    assert not connection.open
    assert len(pool) == 0
