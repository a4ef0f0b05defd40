"""Every framing a backend may use reaches every client whole, and leaves a clean connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollad.config.schema import Proxy
from ollad.relay.exchange import UpstreamRequest
from ollad.replies import HoldSink
from tests.wire.byte_client import connect
from tests.wire.fake_sglang import STREAM_HEAD, chunked
from tests.wire.relay.replies import LONE, OPAQUE, ask, in_pieces, post

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang
    from tests.wire.relay.replies import Reply

OK = b"HTTP/1.1 200 OK\r\n"
TEXT = b"content-type: text/plain\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
BODY = b"one two\r\n three\0"
SIZED = OK + TEXT + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
OLD = b"HTTP/1.0 200 OK\r\n" + TEXT

KEPT = {
    "sized": SIZED,
    "empty": OK + TEXT + b"content-length: 0\r\n\r\n",
    "chunked": OK + TEXT + CHUNKED + chunked(BODY[:4]) + chunked(BODY[4:]) + b"0\r\n\r\n",
    "chunked with extensions": OK
    + TEXT
    + CHUNKED
    + b'10;a=b;c="d e"\r\n'
    + BODY
    + b"\r\n0;x\r\n\r\n",
    "chunked with trailers": OK + TEXT + CHUNKED + chunked(BODY) + b"0\r\nX-End: 1\r\nY: 2\r\n\r\n",
    "chunked and empty": OK + TEXT + CHUNKED + b"0\r\n\r\n",
    "204": b"HTTP/1.1 204 Nothing\r\nx-y: z\r\n\r\n",
    "304": b"HTTP/1.1 304 Same\r\ncontent-length: 12\r\n\r\n",
    "interim replies first": b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n"
    + SIZED,
    "HTTP/1.0 kept alive": OLD + b"connection: keep-alive\r\ncontent-length: 16\r\n\r\n" + BODY,
}
CLOSED = {
    "until close": OK + TEXT + b"\r\n" + BODY,
    "until close, declared": OK + TEXT + b"connection: close\r\n\r\n" + BODY,
    "until close, empty": OK + TEXT + b"\r\n",
    "sized, then closed": OK + TEXT + b"connection: close\r\ncontent-length: 16\r\n\r\n" + BODY,
    "chunked, then closed": OK
    + TEXT
    + b"connection: close\r\n"
    + CHUNKED
    + chunked(BODY)
    + b"0\r\n\r\n",
    "HTTP/1.0 sized": OLD + b"content-length: 16\r\n\r\n" + BODY,
    "HTTP/1.0 until close": OLD + b"\r\n" + BODY,
}
SIZED_NAMES = {"sized", "empty", "interim replies first", "sized, then closed", "204", "304"}


def expected(name: str) -> bytes:
    return b"" if "empty" in name or name in ("204", "304") else BODY


def split(data: bytes, step: int) -> list[bytes]:
    return [data[at : at + step] for at in range(0, len(data), step)]


def judge(name: str, reply: Reply, version: str) -> None:
    assert reply.status == {"204": 204, "304": 304}.get(name, 200)
    assert (reply.body, reply.whole) == (expected(name), True)
    assert reply.trailers == ()
    assert reply.header("link") is None
    if "sized" in name.lower() or name in ("empty", "interim replies first", "HTTP/1.0 kept alive"):
        assert reply.header("content-length") == str(len(expected(name)))
    elif version == "1.1" and name not in ("204", "304"):
        assert reply.header("transfer-encoding") == "chunked"
    else:
        assert reply.header("transfer-encoding") is None


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(("name", "raw"), KEPT.items(), ids=KEPT)
async def test_a_connection_is_used_again_after_a_reply_with_an_end_of_its_own(
    name: str, raw: bytes, step: int, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(*split(raw, step))
    async with connect(ollad.port) as client:
        for _ in range(3):
            judge(name, await ask(client.reader, client.writer, post()), "1.1")
    if step > 7:  # the end in bits is not certain to be the end
        assert len({id(request.writer) for request in fake.requests[-2:]}) == 1


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize(("name", "raw"), CLOSED.items(), ids=CLOSED)
async def test_a_connection_that_ends_with_its_reply_is_not_used_again(
    name: str, raw: bytes, step: int, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(*split(raw, step), close=True)
    async with connect(ollad.port) as client:
        for _ in range(3):
            judge(name, await ask(client.reader, client.writer, post()), "1.1")
    assert len({id(request.writer) for request in fake.requests}) == 3


@pytest.mark.parametrize(("name", "raw"), [*KEPT.items(), *CLOSED.items()], ids=[*KEPT, *CLOSED])
async def test_a_client_of_http_1_0_gets_no_chunks(
    name: str, raw: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(raw, close=name in CLOSED)
    async with connect(ollad.port) as client:
        reply = await ask(client.reader, client.writer, post(version="1.0"))
        judge(name, reply, "1.0")
        assert reply.header("connection") == "close"
        assert await client.reader.read() == b""


async def test_a_client_of_http_1_0_may_keep_its_connection(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(SIZED)
    request = post(version="1.0", headers="Connection: keep-alive\r\n")
    async with connect(ollad.port) as client:
        for _ in range(2):
            reply = await ask(client.reader, client.writer, request)
            assert (reply.body, reply.header("connection")) == (BODY, "keep-alive")


async def test_a_client_that_ends_its_connection_does_not_end_ours(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(KEPT["chunked"])
    for _ in range(2):
        async with connect(ollad.port) as client:
            reply = await ask(client.reader, client.writer, post(headers="Connection: close\r\n"))
            assert (reply.body, reply.header("connection")) == (BODY, "close")
            assert await client.reader.read() == b""
    assert fake.requests[0].writer is fake.requests[1].writer
    assert fake.requests[0].header("connection") is None


@pytest.mark.parametrize(
    ("name", "raw"), [*KEPT.items(), ("gone", SIZED.replace(b"200 OK", b"404 Gone"))]
)
async def test_a_client_that_asks_for_the_head_gets_it_alone(
    name: str, raw: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[LONE] = in_pieces(raw)
    line = f"/olla/sglang{LONE} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    async with connect(ollad.port) as client:
        head = await ask(client.reader, client.writer, b"HEAD " + line)
        get = await ask(client.reader, client.writer, b"GET " + line)
    assert (head.line, head.header("content-length")) == (get.line, get.header("content-length"))
    assert head.header("transfer-encoding") == get.header("transfer-encoding")
    assert get.body == expected(name)


@pytest.mark.parametrize("step", [7, 100_000])
@pytest.mark.parametrize(
    "raw",
    [
        OK + TEXT + b"content-length: 16\r\n\r\n",
        OK + TEXT + CHUNKED,
        b"HTTP/1.1 404 Gone\r\ncontent-length: 99\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" + OK + b"content-length: 16\r\n\r\n",
    ],
    ids=["sized", "chunked", "an error", "after an interim reply"],
)
async def test_a_backend_that_is_asked_for_a_head_keeps_its_connection(
    raw: bytes, step: int, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[LONE] = [in_pieces(*split(raw, step))] * 2 + [in_pieces(SIZED)]
    relay, pool = ollad.gateway.dispatcher.relay, ollad.gateway.runtime.pool
    bodies = []
    for method in ("HEAD", "HEAD", "GET"):
        request = UpstreamRequest(method, LONE, b"", b"")
        outcome = await relay.forward(request, pool.named("one"), HoldSink(), Proxy())
        assert outcome.fault is None
        bodies.append(outcome.body)
    assert bodies == [b"", b"", BODY]
    if step > 7:
        assert len({id(request.writer) for request in fake.requests}) == 1


async def test_a_stream_keeps_the_segments_it_came_in(fake: FakeSGLang, ollad: Running) -> None:
    events = [b"data: %d\n\n" % number for number in range(5)]
    pieces = [STREAM_HEAD, *map(chunked, events), b"0\r\n\r\n"]
    fake.scripts[OPAQUE] = in_pieces(*pieces)
    async with connect(ollad.port) as client:
        reply = await ask(client.reader, client.writer, post())
    assert list(reply.chunks) == events
