"""The figures of a stream, after it, for clients that take trailers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.byte_client import connect, post_bytes
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply
from tests.wire.relay.replies import OPAQUE, ask, in_pieces, post

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang
    from tests.wire.relay.replies import Reply

ROUTE = "/v1/chat/completions"
STREAM = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
EVENT = b'data: {"choices": []}\n\n'
USAGE = (
    b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, '
    b'"prompt_tokens_details": {"cached_tokens": 5}}}\n\n'
)
DONE = b"data: [DONE]\n\n"
PIECES = (STREAM_HEAD, chunked(EVENT), chunked(USAGE), chunked(DONE), b"0\r\n\r\n")
NAMES = ["X-Olla-Response-Time", "X-SGLang-Cache-Hit", "X-SGLang-Spec-Decode"]


async def streamed(ollad: Running, headers: str, **options: Any) -> Reply:
    async with connect(ollad.port) as client:
        request = post_bytes(ROUTE, STREAM, headers=headers, **options)
        first = await ask(client.reader, client.writer, request)
        if options.get("version") != "1.0":
            again = await ask(client.reader, client.writer, request)
            assert again.body == first.body  # nothing was left on the connection
        return first


@pytest.mark.parametrize(
    "te", ["trailers", "Trailers", "gzip;q=0.5, trailers", "gzip\r\nTE: trailers"]
)
async def test_a_stream_ends_with_its_figures(te: str, fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = in_pieces(*PIECES)
    got = await streamed(ollad, f"TE: {te}\r\nConnection: TE\r\n")
    assert got.header("Trailer") == ", ".join(NAMES)
    trailers = dict(got.trailers)
    assert sorted(trailers) == NAMES
    assert re.fullmatch(r"\d+ms", trailers["X-Olla-Response-Time"])
    assert trailers["X-SGLang-Cache-Hit"] == "true"
    assert got.header("X-SGLang-Cache-Hit") == "unknown"
    assert list(got.chunks) == [EVENT, USAGE, DONE]  # the backend's bytes, as they came
    assert fake.requests[0].header("TE") is None


@pytest.mark.parametrize(
    "headers", ["", "TE: gzip\r\n", "TE: trailers-not\r\n", "X-TE: trailers\r\n"]
)
async def test_nobody_else_gets_trailers(headers: str, fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = in_pieces(*PIECES)
    got = await streamed(ollad, headers)
    assert (got.header("Trailer"), got.trailers, got.whole) == (None, (), True)


async def test_http_1_0_has_no_trailers(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = in_pieces(*PIECES)
    got = await streamed(ollad, "TE: trailers\r\n", version="1.0")
    assert got.header("Trailer") is None
    assert got.body == EVENT + USAGE + DONE


async def test_a_reply_that_is_no_stream_has_no_trailers(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[OPAQUE] = [
        in_pieces(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
        reply(b"{}"),
    ]
    async with connect(ollad.port) as client:
        for body in (b"a", b"{}"):
            got = await ask(client.reader, client.writer, post(headers="TE: trailers\r\n"))
            assert (got.body, got.header("Trailer"), got.trailers) == (body, None, ())


async def test_a_stream_without_a_cache_has_only_its_time(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[OPAQUE] = in_pieces(*PIECES)
    async with connect(ollad.port) as client:
        got = await ask(client.reader, client.writer, post(headers="TE: trailers\r\n"))
    assert [name for name, _ in got.trailers] == ["X-Olla-Response-Time"]


async def test_what_the_backend_said_itself_is_not_said_again(
    fake: FakeSGLang, ollad: Running
) -> None:
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nx-sglang-cache-hit: 0.5\r\nTrailer: x\r\n\r\n")
    fake.scripts[ROUTE] = in_pieces(head, chunked(EVENT), b"0\r\nx: y\r\n\r\n")
    got = await streamed(ollad, "TE: trailers\r\n")
    assert got.header("X-SGLang-Cache-Hit") == "0.5"
    assert [name for name, _ in got.trailers] == ["X-Olla-Response-Time", "X-SGLang-Spec-Decode"]


async def test_a_stream_that_breaks_off_has_no_trailers(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = in_pieces(STREAM_HEAD, chunked(EVENT), close=True)
    async with connect(ollad.port) as client:
        got = await ask(
            client.reader, client.writer, post_bytes(ROUTE, STREAM, headers="TE: trailers\r\n")
        )
    assert (got.body, got.trailers, got.whole) == (EVENT, (), False)
