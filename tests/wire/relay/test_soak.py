"""Whatever clients and backends do to each other, nothing is left of it in ollad."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web

from ollad.config.schema import Logging, Proxy
from ollad.relay import pool as pool_module
from ollad.relay.upstream import Connection
from tests.compiled import text_only
from tests.wire.byte_client import connect, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply, serving
from tests.wire.relay.replies import LONE, OPAQUE, in_pieces, post, read_reply

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, Script
    from tests.wire.loglines import LogLines

REQUESTS: Final = int(os.environ.get("OLLAD_SOAK_REQUESTS", "2000"))
TOGETHER: Final = 40
CHAT: Final = "/v1/chat/completions"
CHAT_BODY: Final = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true}'
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
SIZED: Final = OK + b"content-length: 5\r\n\r\nhello"
EVENT: Final = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
EVENTS: Final = [chunked(EVENT)] * 5


async def silent(exchange: Exchange) -> None:
    await asyncio.sleep(0.05)
    exchange.reset()


async def large(exchange: Exchange) -> None:
    await exchange.send(OK + b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000)


BEHAVIOURS: Final[tuple[Script, ...]] = (
    *[in_pieces(SIZED)] * 4,
    *[in_pieces(STREAM_HEAD, *EVENTS, b"0\r\n\r\n")] * 4,
    in_pieces(STREAM_HEAD + EVENTS[0], *EVENTS, b"0\r\nx: y\r\n\r\n"),
    in_pieces(OK + b"\r\n", b"until", b"close", close=True),
    in_pieces(b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", close=True),
    in_pieces(b"HTTP/1.1 103 Early\r\n\r\n", SIZED),
    in_pieces(b"HTTP/1.1 204 Nothing\r\n\r\n"),
    reply(b'{"error": {}}', "500 Bug"),
    reply(b'{"error": {}}', "503 Busy"),
    in_pieces(reset=True),
    in_pieces(close=True),
    in_pieces(b"HTTP/1.1 200", close=True),
    in_pieces(OK + b"content-length: 5\r\n\r\nhe", reset=True),
    in_pieces(STREAM_HEAD + EVENTS[0], close=True),
    in_pieces(STREAM_HEAD + EVENTS[0], b"zz\r\n"),
    in_pieces(SIZED + SIZED),
    in_pieces(b"nonsense\r\n\r\n"),
    silent,
    large,
)


@dataclass(slots=True)
class Census:
    """What there is in the process."""

    tasks: int = field(default_factory=lambda: len(asyncio.all_tasks()))
    descriptors: int = field(default_factory=lambda: len([*Path("/proc/self/fd").iterdir()]))
    blocks: int = field(default_factory=sys.getallocatedblocks)
    resident: int = field(
        default_factory=lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    )


async def one_client(port: int, dice: random.Random) -> int:
    """Ask a few times over one connection, in some way, and leave at some moment.

    Returns:
        How many requests were made, the last one perhaps in part.
    """
    made = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        for _ in range(dice.randint(1, 3)):
            request = dice.choice(
                [
                    post(),
                    post(CHAT, body=CHAT_BODY),
                    post(CHAT, body=CHAT_BODY, headers="TE: trailers\r\n"),
                    f"GET /olla/sglang{LONE} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
                    post(version="1.0"),
                    post(headers="Connection: close\r\n"),
                ]
            )
            if writer.transport.is_closing():
                break
            made += 1
            match dice.randrange(6):
                case 0:  # leaves in the middle of its request
                    writer.write(request[: dice.randrange(len(request))])
                    break
                case 1:  # leaves without waiting, or soon
                    writer.write(request)
                    await asyncio.sleep(dice.choice([0, 0, 0.001, 0.003, 0.01]))
                    break
                case 2:  # leaves once it has read something
                    writer.write(request)
                    await reader.read(dice.choice([1, 100, 1000, 100_000]))
                    break
                case _:
                    writer.write(request)
                    await asyncio.wait_for(read_reply(reader), 10)
    writer.transport.abort()
    return made


async def clients(port: int, count: int, seed: int) -> None:
    """Have ``count`` requests made."""
    dice = random.Random(seed)
    left = count

    async def some() -> None:
        nonlocal left
        while left > 0:
            made = await one_client(port, dice)
            left -= made

    await asyncio.gather(*(some() for _ in range(TOGETHER)))


async def settled(ollad: Running, fakes: list[FakeSGLang]) -> None:
    """Wait until everybody is done, and memory that is free has been given back."""
    gateway = ollad.gateway
    pools = gateway.dispatcher.relay._pools
    await until(lambda: len(gateway.traffic) == 0)
    await until(lambda: not any(len(pool) for pool in pools._pools.values()))
    await until(lambda: all(backend.in_flight == 0 for backend in gateway.runtime.pool))
    for fake in fakes:
        await until(lambda fake=fake: fake.connections <= 1)  # type: ignore[misc]
    await asyncio.sleep(0.1)
    for _ in range(3):
        gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back to the system what is free


@pytest.mark.timeout(600)
async def test_nothing_is_left_behind(log: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(pool_module, "_SWEEP_SECONDS", 0.05)
    fakes = [FakeSGLang(), FakeSGLang()]
    dice = random.Random(4)

    async def at_random(exchange: Exchange) -> None:
        for fake in fakes:
            fake.requests.clear()  # what the test remembers is no leak of ollad's
        with suppress(ConnectionError):
            await dice.choice(BEHAVIOURS)(exchange)

    for fake in fakes:
        fake.scripts = dict.fromkeys((OPAQUE, CHAT, LONE), at_random)
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
    async with (
        serving(*fakes),
        running(
            *(endpoint(fake, str(at), check_interval=600.0) for at, fake in enumerate(fakes)),
            proxy=Proxy(first_byte_timeout=1.0, idle_timeout=1.0),
            logging=Logging(access=False),
        ) as ollad,
    ):
        await clients(ollad.port, max(1000, REQUESTS // 4), 1)  # warms up
        await settled(ollad, fakes)
        before, probing = Census(), sum(fake.connections for fake in fakes)
        await clients(ollad.port, REQUESTS, 2)
        await settled(ollad, fakes)
        after = Census()
        # those of the probes are closed in between if the backends kept them idle for long enough
        ended = probing - sum(fake.connections for fake in fakes)
        print(before, after, sep="\n")  # shown when something is left
        assert after.tasks == before.tasks - ended
        assert after.descriptors == before.descriptors - 2 * ended
        assert after.blocks - before.blocks < 1000
        assert after.resident - before.resident < 4 * 1024 * 1024
    assert troubles == []
    assert [line for line in log.entries() if line["level"] == "error"] == []


MOMENTS: Final[dict[str, Script]] = {
    "before the head": silent,
    "inside the head": in_pieces(b"HTTP/1.1 200", b"", b"", b"", b"", b"", b"", b"", b""),
    "after the head": in_pieces(STREAM_HEAD, *[b""] * 50),
    "inside the first event": in_pieces(STREAM_HEAD, chunked(b"data"), *[b""] * 50),
    "inside the stream": in_pieces(STREAM_HEAD, *EVENTS, *[b""] * 50),
}


@pytest.mark.parametrize("moment", MOMENTS)
@text_only
async def test_the_backend_is_left_in_the_turn_after_the_client_went(
    moment: str, fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    turn = 0
    gone: list[int] = []
    left: list[int] = []

    def count() -> None:
        nonlocal turn
        turn += 1
        if not left:
            loop.call_soon(count)

    loop.call_soon(count)
    lost, abort = web.RequestHandler.connection_lost, Connection.abort

    def noting_lost(self: web.RequestHandler, error: BaseException | None) -> None:
        gone.append(turn)
        lost(self, error)

    def noting_abort(self: Connection) -> None:
        left.append(turn)
        abort(self)

    monkeypatch.setattr(web.RequestHandler, "connection_lost", noting_lost)
    monkeypatch.setattr(Connection, "abort", noting_abort)
    fake.scripts[CHAT] = MOMENTS[moment]
    async with connect(ollad.port) as client:
        await client.send(post(CHAT, body=CHAT_BODY))
        await until(lambda: bool(fake.requests))
        if moment == "inside the stream":
            await client.head()
        await asyncio.sleep(0.01)
        client.leave()
        await until(lambda: bool(left))
    assert left[0] - gone[0] <= 1
    await until(lambda: ollad.gateway.runtime.pool.named("one").in_flight == 0)
