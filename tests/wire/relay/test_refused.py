"""Replies that nobody can be sure of are refused, and nobody sees a byte of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ollad.config.schema import Proxy
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.replies import HoldSink
from tests.wire.byte_client import connect, until
from tests.wire.fake_sglang import STREAM_HEAD, chunked
from tests.wire.relay.replies import LONE, OPAQUE, ask, in_pieces, post

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang
    from tests.wire.relay.replies import Reply

MARK = b"MARK"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
GOOD = OK + b"content-length: 4\r\n\r\ngood"
CHUNKED = b"transfer-encoding: chunked\r\n"
TWELVE = b"content-length: 12\r\n"
BODY = b"12345678MARK"

BAD = {
    "equal lengths": OK + TWELVE * 2 + b"\r\n" + BODY,
    "other lengths": OK + TWELVE + b"content-length: 8\r\n\r\n" + BODY,
    "list of lengths": OK + b"content-length: 12, 12\r\n\r\n" + BODY,
    "length, then chunked": OK + TWELVE + CHUNKED + b"\r\n" + chunked(MARK) + b"0\r\n\r\n",
    "chunked, then length": OK + CHUNKED + TWELVE + b"\r\n" + chunked(MARK) + b"0\r\n\r\n",
    "coding twice": OK + CHUNKED * 2 + b"\r\n" + chunked(MARK) + b"0\r\n\r\n",
    "other coding": OK + b"transfer-encoding: gzip\r\n\r\n" + MARK,
    "bare LF": OK + b"x: y\n" + TWELVE + b"\r\n" + BODY,
    "bare LF only": (OK + TWELVE + b"\r\n" + BODY).replace(b"\r\n", b"\n"),
    "bare CR": OK + b"x: y\rz: MARK\r\n" + TWELVE + b"\r\n" + BODY,
    "NUL": OK + b"x: MARK\0\r\n" + TWELVE + b"\r\n" + BODY,
    "NUL in the reason": b"HTTP/1.1 200 MA\0RK\r\n" + TWELVE + b"\r\n" + BODY,
    "folded": OK + b"x: y\r\n MARK\r\n" + TWELVE + b"\r\n" + BODY,
    "long head": OK + b"x-mark: MARK%b\r\n" % (b"y" * 100_000) + TWELVE + b"\r\n" + BODY,
    "many headers": OK + b"x: MARK\r\n" * 20_000 + TWELVE + b"\r\n" + BODY,
    "endless interim replies": b"HTTP/1.1 102 MARK\r\n\r\n" * 20_000 + GOOD,
    "switch of protocols": b"HTTP/1.1 101 MARK\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + MARK,
    "status 0": b"HTTP/1.1 000 MARK\r\n\r\n" + GOOD,
    "other protocol": b"MARK/1.1 200 OK\r\n\r\n",
    "junk before": MARK + GOOD,
    "empty line before": b"\r\n" + GOOD.replace(b"good", MARK),
    "garbage chunk size": OK + CHUNKED + b"\r\nMARK\r\n",
    "signed chunk size": OK + CHUNKED + b"\r\n-4\r\nMARK\r\n0\r\n\r\n",
    "huge chunk size": OK + CHUNKED + b"\r\nfffffffffffffffff\r\nMARK",
    "bare LF after the chunk size": OK + CHUNKED + b"\r\n4\nMARK\r\n0\r\n\r\n",
    "junk after": OK + b"content-length: 1\r\n\r\nxMARK",
    "junk after chunks": OK + CHUNKED + b"\r\n" + chunked(b"x") + b"0\r\n\r\nMARK",
    "two replies": GOOD + GOOD.replace(b"good", MARK),
}


def judge(reply: Reply) -> None:
    assert reply.status == 502
    assert json.loads(reply.body)["error"]["code"] == "backend_error"
    assert MARK not in reply.body
    assert not any("MARK" in value for _, value in reply.headers)


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
async def test_a_reply_that_breaks_the_protocol_is_502(
    raw: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = [in_pieces(raw), in_pieces(GOOD)]
    async with connect(ollad.port) as client:
        judge(await ask(client.reader, client.writer, post()))
        assert (await ask(client.reader, client.writer, post())).body == b"good"
    assert len(fake.requests) == 2
    assert fake.requests[0].writer is not fake.requests[1].writer


@pytest.mark.parametrize(
    "name", ["junk before", "equal lengths", "bare LF", "garbage chunk size", "NUL"]
)
async def test_it_is_on_a_connection_used_before_too(
    name: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = [in_pieces(GOOD), in_pieces(BAD[name]), in_pieces(GOOD)]
    async with connect(ollad.port) as client:
        assert (await ask(client.reader, client.writer, post())).body == b"good"
        judge(await ask(client.reader, client.writer, post()))
        assert (await ask(client.reader, client.writer, post())).body == b"good"
    assert fake.requests[0].writer is fake.requests[1].writer


JUNK = {
    "text": MARK,
    "an empty line": b"\r\n",
    "a line feed": b"\n",
    "a reply": GOOD.replace(b"good", MARK),
    "half a reply": b"HTTP/1.1 200 MARK\r\ncontent-le",
}


@pytest.mark.parametrize("raw", [GOOD, OK + CHUNKED + b"\r\n" + chunked(b"good") + b"0\r\n\r\n"])
@pytest.mark.parametrize("pause", [0.0, 0.02], ids=["at once", "later"])
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_the_next_client_sees_no_byte_of_junk_after_a_reply(
    junk: bytes, pause: float, raw: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    pieces = (raw, junk) if pause else (raw + junk,)
    fake.scripts[OPAQUE] = [in_pieces(*pieces), in_pieces(GOOD)]
    async with connect(ollad.port) as client:
        first = await ask(client.reader, client.writer, post())
        assert (first.status, first.body) == (200, b"good") or first.status == 502
        assert first.status == 200 or not pause
    await until(fake.requests[0].reader.at_eof)  # ollad ended the connection by itself
    async with connect(ollad.port) as client:
        second = await ask(client.reader, client.writer, post())
    assert second.body == b"good"
    assert MARK not in first.body
    assert fake.requests[0].writer is not fake.requests[1].writer


async def test_a_body_after_a_reply_to_head_reaches_nobody(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[LONE] = [in_pieces(GOOD.replace(b"good", MARK)), in_pieces(GOOD)]
    relay, pool = ollad.gateway.dispatcher.relay, ollad.gateway.runtime.pool
    outcomes = [
        await relay.forward(
            UpstreamRequest(method, LONE, b"", b""), pool.named("one"), HoldSink(), Proxy()
        )
        for method in ("HEAD", "GET")
    ]
    assert [(each.fault, each.body) for each in outcomes] == [(Fault.RESET, None), (None, b"good")]


@pytest.mark.parametrize(
    "junk", [b"MARK\r\n", b"-1\r\nMARK", b"4\nMARK", b"0\r\n\r\nMARK", b"0\r\nMARK\0: x\r\n\r\n"]
)
async def test_a_stream_that_breaks_the_protocol_later_is_visibly_cut(
    junk: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(STREAM_HEAD + chunked(b"data: 1\n\n"), junk)
    async with connect(ollad.port) as client:
        reply = await ask(client.reader, client.writer, post())
        assert (reply.body, reply.whole) == (b"data: 1\n\n", False)
        assert await client.reader.read() == b""
    await until(fake.requests[0].reader.at_eof)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "head", [b"content-length: 9\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n6\r\n"]
)
async def test_a_truncated_reply_is_visibly_cut(
    head: bytes, version: str, reset: bool, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = in_pieces(OK + head + b"abc", b"", close=True, reset=reset)
    async with connect(ollad.port) as client:
        reply = await ask(client.reader, client.writer, post(version=version))
    assert (reply.status, reply.whole) == (200, False)
    assert b"abc".startswith(reply.body)
