"""The same exchange, made directly, through the relay and through a simple one, is the same.

Heads of requests and of replies come again and again, so that most of those that can be are taken
without being parsed; the simple relay has each parsed by aiohttp.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from ollad.config.schema import Logging
from ollad.fastpath import FastPath
from ollad.headers import reply_lines
from ollad.relay.upstream import Connection
from tests.compiled import COMPILED
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, chunked, serving
from tests.wire.relay.replies import LONE, OPAQUE, Reply, ask, fields
from tests.wire.relay.simple import SimpleRelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.fake_sglang import Exchange

EXCHANGES: Final = int(os.environ.get("OLLAD_DIFFERENTIAL_EXCHANGES", "2000"))
SHAPES: Final = 60
TOGETHER: Final = 8
STATUSES: Final = (
    *["200 OK"] * 6,
    "200",
    "201 Made with \xfc",
    "204 No Content",
    "206 Partial Content",
    "302 Found",
    "304 Not Modified",
    "400 Bad Request",
    "404 Not Found",
    "422 No",
    "429 Slow Down",
    "500 Bug",
    "503 Busy",
    "599 Own",
)
TYPES: Final = (
    None,
    "text/plain",
    "application/json",
    "text/event-stream",
    "text/event-stream; charset=utf-8",
    "application/octet-stream",
)
HEADERS: Final = (
    ("x-one", "1"),
    ("X-One", "2"),
    ("X-Empty", ""),
    ("Server", "uvicorn"),
    ("Date", "Sat, 22 Nov 2025 12:00:00 GMT"),
    ("Vary", "a, b"),
    ("ETag", 'W/"x"'),
    ("X-Obs", "\xe9\xff"),
    ("Set-Cookie", "a=b"),
    ("Keep-Alive", "timeout=5"),
    ("Access-Control-Allow-Origin", "*"),
    ("Proxy-Status", "x"),
    ("X-Hop", "dropped"),
    ("Connection", "X-Hop"),
    ("Retry-After", "1"),
    ("Location", "/elsewhere"),
    ("Content-Encoding", "identity"),
    ("X-Long", "y" * 3000),
)
ADDED: Final = ("x-olla-", "x-request-id", "x-accel-buffering", "x-sglang-")
FRAMING: Final = ("content-length", "transfer-encoding", "connection", "trailer")

Essence = tuple[str, list[tuple[str, str]], bytes, bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange: a request to OPAQUE or LONE, and the segments of its reply."""

    request: tuple[str, str, bytes]
    version: str
    pieces: tuple[bytes, ...]
    body: bytes
    closes: bool
    cut: bool

    def bytes_for(self, prefix: str, number: int) -> bytes:
        method, path, body = self.request
        case = "" if body else f"X-Case: {number}\r\n"
        body %= (number,) if body else ()
        head = (
            f"{method} {prefix}{path} HTTP/{self.version}\r\nHost: x\r\n{case}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def cut_into(dice: random.Random, data: bytes, most: int) -> list[bytes]:
    cuts = {dice.randrange(len(data) + 1) for _ in range(dice.randint(0, most))} if data else set()
    return [data[start:end] for start, end in pairwise(sorted({0, len(data), *cuts}))]


def a_body(dice: random.Random, kind: str | None) -> bytes:
    if kind is not None and kind.startswith("text/event-stream"):
        events = [b"data: %d\n\n" % dice.randrange(10**9) for _ in range(dice.randint(0, 9))]
        return b"".join(events) + dice.choice([b"", b"data: [DONE]\n\n", b"data: open"])
    size = dice.choice([0, 1, 2, 10, 100, 5000, 70_000, 300_000])
    return dice.randbytes(size) if kind != "application/json" else b'{"a": %d}' % size


@dataclass(frozen=True, slots=True)
class Shape:
    """What heads of replies have in common."""

    status: str
    kind: str | None
    headers: tuple[tuple[str, str], ...]


def a_shape(dice: random.Random) -> Shape:
    kind = dice.choice(TYPES)
    headers = dice.sample(HEADERS, dice.randint(0, 6))
    if kind is not None:
        headers.insert(dice.randint(0, len(headers)), ("Content-Type", kind))
    return Shape(dice.choice(STATUSES), kind, tuple(headers))


def a_case(dice: random.Random, shape: Shape) -> Case:
    status, kind = shape.status, shape.kind
    bodiless = status[:3] in ("204", "304")
    whole = body = b"" if bodiless else a_body(dice, kind)
    framing = "none" if bodiless else dice.choice(["sized", "sized", "chunked", "chunked", "close"])
    old = framing != "chunked" and dice.random() < 0.15
    headers = [*shape.headers]
    closes = framing == "close" or old
    if framing == "sized":
        headers.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        body = b"".join(map(chunked, cut_into(dice, body, 6)))
        body += dice.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"00;a=b\r\nX-Trailer: t\r\n\r\n"])
    if not closes and dice.random() < 0.15:
        headers.append(("Connection", "close"))
        closes = True
    lines = [f"HTTP/1.{0 if old else 1} {status}", *(f"{name}: {value}" for name, value in headers)]
    raw = "\r\n".join([*lines, "", ""]).encode("latin-1")
    cut = framing in ("sized", "chunked") and len(body) > 1 and dice.random() < 0.1
    if cut:
        body = body[: dice.randrange(len(body))]
    return Case(
        request=dice.choice([("POST", OPAQUE, b'{"prompt": "x", "case": %d}'), ("GET", LONE, b"")]),
        version=dice.choice(["1.1", "1.1", "1.1", "1.0"]),
        pieces=tuple(cut_into(dice, raw + body, dice.choice([0, 0, 3, 12]))),
        body=whole,
        closes=closes or cut,
        cut=cut,
    )


class Asker:
    """Asks one server, over one connection as long as that lasts."""

    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self._wire: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, case: Case, number: int) -> Reply:
        if self._wire is None:
            self._wire = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            reply = await ask(*self._wire, case.bytes_for(self._prefix, number))
        except ConnectionError:  # a reset may discard what its receiver has not read yet
            reply = Reply("HTTP/1.0 000 ", (), b"", whole=False)
        if not self._prefix:
            self.close()
        elif case.version == "1.0" or not reply.whole or reply.header("connection") == "close":
            with suppress(ConnectionError):
                assert await self._wire[0].read() == b""
            self.close()
        return reply

    def close(self) -> None:
        if self._wire is not None:
            self._wire[1].transport.abort()
            self._wire = None


def essence(reply: Reply) -> Essence:
    """What a reply says, without framing and without what ollad adds."""
    headers = [
        (name, value)
        for name, value in reply.headers
        if name.lower() not in FRAMING and not name.lower().startswith(ADDED)
    ]
    return reply.line.rstrip(), headers, reply.body, reply.whole


def expected(direct: Reply, version: str) -> Essence:
    """What ollad makes of what the backend said."""
    lines, _ = reply_lines(
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in direct.headers
    )
    passed = fields(lines.decode("latin-1").split("\r\n")[:-1])
    line = f"HTTP/{version}{direct.line[len('HTTP/1.1') :]}"
    return essence(Reply(line, passed, direct.body, whole=direct.whole))


def dated(reply: Reply, direct: Reply) -> Reply:
    """The reply without a date of ollad's own."""
    if any(name.lower() == "date" for name, _ in direct.headers):
        return reply
    headers = tuple(pair for pair in reply.headers if pair[0] != "Date")
    return Reply(reply.line, headers, reply.body, reply.chunks, reply.trailers, reply.whole)


@pytest.mark.timeout(600)
async def test_the_same_exchange_is_the_same_whichever_way_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = Counter[str]()
    for owner, name in ((FastPath, "serve"), (Connection, "_take_familiar")):
        count_what_is_taken(monkeypatch, taken, owner, name)
    fake = FakeSGLang()
    dice = random.Random(9)
    shapes = [a_shape(dice) for _ in range(SHAPES)]
    cases = [a_case(dice, dice.choice(shapes)) for _ in range(EXCHANGES)]

    async def script(exchange: Exchange) -> None:
        number = int(exchange.header("X-Case") or exchange.json["case"])
        case = cases[number]
        if number % 10 == 0 and exchange.header("Via") is not None:
            await exchange.send(b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n")
        for piece in case.pieces:
            await exchange.send(piece)
            await asyncio.sleep(0)
        if case.closes:
            exchange.writer.close()

    fake.scripts = dict.fromkeys((OPAQUE, LONE), script)
    quiet = Logging(access=False)
    async with (
        serving(fake),
        running(endpoint(fake), logging=quiet) as ollad,
        without_fast_path(),
        running(endpoint(fake), logging=quiet) as simple,
        aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        ) as session,
    ):
        if not COMPILED:  # which takes no other; then it is ollad's own without the fast path
            simple.gateway.dispatcher.relay = SimpleRelay(session)  # type: ignore[assignment]
        numbers = iter(range(len(cases)))

        async def compare() -> None:
            ways = Asker(fake.port, ""), Asker(ollad.port, PREFIX), Asker(simple.port, PREFIX)
            for number in numbers:
                case = cases[number]
                direct, real, plain = [await way.ask(case, number) for way in ways]
                if case.cut:
                    assert not direct.whole
                    for reply in (real, plain):
                        assert reply.whole == (reply.status == 502), case
                        assert reply.whole or case.body.startswith(reply.body), case
                else:
                    assert essence(dated(real, direct)) == expected(direct, case.version), case
                    assert essence(dated(plain, direct)) == expected(direct, case.version), case
            for way in ways:
                way.close()

        await asyncio.gather(*(compare() for _ in range(TOGETHER)))
        assert all(backend.in_flight == 0 for backend in ollad.gateway.runtime.pool)
    assert COMPILED or min(taken["serve"], taken["_take_familiar"]) > EXCHANGES / 20


@asynccontextmanager
async def without_fast_path() -> AsyncIterator[None]:
    """An ollad that starts now parses every request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ollad.server._served", lambda _: ())
        yield


def count_what_is_taken(
    patch: pytest.MonkeyPatch, taken: Counter[str], owner: type, name: str
) -> None:
    take = getattr(owner, name)

    def counting(*args: Any) -> bool:
        found: bool = take(*args)
        taken[name] += found
        return found

    patch.setattr(owner, name, counting)
