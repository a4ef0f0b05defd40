"""Bytes pass as they came, when they come, and no faster than they are taken."""

from __future__ import annotations

import asyncio
import gzip
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.byte_client import connect, post_bytes, until
from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang, Script

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
ROUTE = "/v1/chat/completions"
OPAQUE = "/tokenize"
PROMPT = {"model": "tiny", "prompt": "hi"}
EVENT = b'data: {"choices": []}\n\n'
END = b"0\r\n\r\n"
CLOSE = "Connection: close\r\n"


def chunks(*parts: bytes, head: bytes = STREAM_HEAD) -> Script:
    """A chunked reply, a chunk for each part."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(head)
        for part in parts:
            exchange.writer.write(chunked(part))
            await asyncio.sleep(0)
        await exchange.send(END)

    return script


def raw(data: bytes, *, close: bool = True) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        if close:
            exchange.writer.close()

    return script


def dechunked(body: bytes) -> bytes:
    """The data of a chunked body, which must be whole."""
    data = b""
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        assert body[size : size + 2] == b"\r\n"
        if size == 0:
            assert body == b"\r\n"
            return data
        data += body[:size]
        body = body[size + 2 :]


EVENTS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.binary(min_size=1, max_size=60).map(lambda data: b"data: " + data + b"\n\n"),
        st.sampled_from(
            [b"data: [DONE]\n\n", b": ping\r\n\r\n", b"\n\n", b"\r", b'data: {"usage":null}\n\n']
        ),
    ),
    max_size=12,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS, seed=st.integers(0, 2**32))
async def test_any_bytes_in_any_pieces_arrive_as_they_were(
    fake: FakeSGLang, ollad: Running, events: list[bytes], seed: int
) -> None:
    chance = random.Random(seed)
    wire = STREAM_HEAD + b"".join(chunked(event) for event in events) + END
    cuts = sorted(chance.sample(range(len(wire)), min(len(wire), chance.randrange(12))))

    async def script(exchange: Exchange) -> None:
        for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            exchange.writer.write(wire[start:stop])
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        await exchange.writer.drain()

    fake.scripts[ROUTE] = script
    response, body = await ollad.post(ROUTE, STREAM)
    assert response.status == 200
    assert body == b"".join(events)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_each_event_reaches_the_client_before_the_next_exists(
    version: str, fake: FakeSGLang, ollad: Running
) -> None:
    seen = asyncio.Queue[bytes]()
    events = [b'data: {"n": %d}\n\n' % number for number in range(5)]

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for event in events:
            await exchange.send(chunked(event))
            assert await seen.get() == event
        await exchange.send(END)

    fake.scripts[ROUTE] = script
    async with connect(ollad.port) as client:
        await client.send(post_bytes(ROUTE, STREAM, version=version, headers=CLOSE))
        head = await client.head()
        assert (b"Transfer-Encoding: chunked\r\n" in head) is (version == "1.1")
        for event in events:
            framed = chunked(event) if version == "1.1" else event
            assert await client.reader.readexactly(len(framed)) == framed
            seen.put_nowait(event)
        assert await client.reader.read() == (END if version == "1.1" else b"")


async def test_bytes_of_a_reply_that_is_no_stream_do_not_wait_either(
    fake: FakeSGLang, ollad: Running
) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{"
        )
        await seen.wait()
        await exchange.send(b"}")

    fake.scripts[OPAQUE] = script
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, headers=CLOSE))
        head = await client.head()
        assert b"Content-Length: 2\r\n" in head
        assert await client.reader.readexactly(1) == b"{"
        seen.set()
        assert await client.reader.read() == b"}"


@pytest.mark.parametrize("path", [ROUTE, OPAQUE])
async def test_a_sized_reply_keeps_its_length(path: str, fake: FakeSGLang, ollad: Running) -> None:
    data = b"[1, 2]"
    fake.scripts[path] = reply(data)
    async with connect(ollad.port) as client:
        await client.send(post_bytes(path, {**CHAT, **PROMPT}, headers=CLOSE))
        head, body = await client.reply()
    assert b"Content-Length: 6\r\n" in head
    assert b"Transfer-Encoding" not in head
    assert body == data


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_chunked_reply_stays_chunked_for_those_who_know_chunks(
    version: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = chunks(b"[1,", b" 2]")
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, version=version, headers=CLOSE))
        head, body = await client.reply()
    assert b"Content-Length" not in head
    if version == "1.1":
        assert b"Transfer-Encoding: chunked\r\n" in head
        assert dechunked(body) == b"[1, 2]"
    else:
        assert b"Transfer-Encoding" not in head
        assert body == b"[1, 2]"


async def test_a_reply_that_ends_with_its_connection_is_whole(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it")
    response, body = await ollad.post(OPAQUE, PROMPT)
    assert (response.status, body) == (200, b"all of it")


async def test_the_framing_of_a_reply_with_two_is_that_of_its_chunks(
    fake: FakeSGLang, ollad: Running
) -> None:
    """RFC 9112 section 6.3: a transfer coding overrides Content-Length."""
    fake.scripts[OPAQUE] = raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunked(b"all of it")
        + END
    )
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, headers=CLOSE))
        head, body = await client.reply()
    if b" 502 " not in head.partition(b"\r\n")[0]:
        assert b"Content-Length" not in head
        assert dechunked(body) == b"all of it"


@pytest.mark.parametrize("path", [ROUTE, OPAQUE])
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("204 No Content", b""),
        ("304 Not Modified", b"etag: x\r\n"),
        ("200 OK", b"content-length: 0\r\n"),
        ("200 OK", b"content-length: 0\r\ncontent-type: text/event-stream\r\n"),
        ("400 Bad", b"content-length: 0\r\n"),
    ],
)
async def test_a_reply_without_a_body_stays_without(
    path: str, status: str, headers: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    answer = b"HTTP/1.1 " + status.encode() + b"\r\n" + headers + b"\r\n"
    fake.scripts[path] = raw(answer, close=False)
    async with connect(ollad.port) as client:
        for _ in range(2):  # the connection can be used again
            await client.send(post_bytes(path, {**CHAT, **PROMPT}))
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 " + status.encode())
            if b"content-length" in headers:
                assert b"Content-Length: 0\r\n" in head
            else:
                assert b"Content-Length" not in head
                assert b"Transfer-Encoding" not in head
            assert (b"content-type" in head.lower()) is (b"content-type" in headers)


async def test_an_empty_stream_is_empty(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = chunks()
    response, body = await ollad.post(ROUTE, STREAM)
    assert (response.status, body) == (200, b"")


@pytest.mark.parametrize("chunked_reply", [False, True])
async def test_head_gets_the_head_alone(
    chunked_reply: bool, fake: FakeSGLang, ollad: Running
) -> None:
    page = b"# TYPE a gauge\na 1\n" * 1000
    head_of = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
    fake.scripts["/metrics"] = (
        chunks(page, head=head_of)
        if chunked_reply
        else reply(page, content_type="text/plain; version=0.0.4")
    )
    request = f"HEAD {PREFIX}/metrics?endpoint=one HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n"
    async with connect(ollad.port) as client:
        await client.send(request.encode())
        head, rest = await client.reply()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/plain" in head
    assert (b"Content-Length: %d\r\n" % len(page) in head) is not chunked_reply
    assert rest == b""


@pytest.mark.parametrize("path", [ROUTE, OPAQUE])
async def test_no_content_type_is_invented(path: str, fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[path] = reply(b"{}", content_type="")
    response, body = await ollad.post(path, {**CHAT, **PROMPT})
    assert body == b"{}"
    assert "Content-Type" not in response.headers
    fake.scripts[path] = reply(b"{}", "400 Bad", content_type="")
    response, body = await ollad.post(path, {**CHAT, **PROMPT})
    assert (response.status, body) == (400, b"{}")
    assert "Content-Type" not in response.headers


async def test_ollads_own_error_after_a_reply_without_content_type_has_one(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = raw(b"HTTP/1.1 500 Bug\r\ncontent-length: 5\r\n\r\nx")
    response, _ = await ollad.post(ROUTE, CHAT)
    assert response.status == 502
    assert response.headers["Content-Type"].startswith("application/json")


async def test_an_encoded_reply_passes_encoded(fake: FakeSGLang, ollad: Running) -> None:
    packed = gzip.compress(b'{"tokens": [1, 2, 3]}' * 100)
    fake.scripts[OPAQUE] = reply(packed, headers={"Content-Encoding": "gzip"})
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, headers=f"Accept-Encoding: gzip\r\n{CLOSE}"))
        head, body = await client.reply()
    assert b"Content-Encoding: gzip\r\n" in head
    assert b"Content-Length: %d\r\n" % len(packed) in head
    assert body == packed
    assert fake.requests[0].header("Accept-Encoding") == "gzip"


async def test_header_values_pass_byte_for_byte(fake: FakeSGLang, ollad: Running) -> None:
    value = "größe → 1".encode()
    fake.scripts[OPAQUE] = raw(
        b"HTTP/1.1 200 Sehr Gut\r\ncontent-length: 2\r\nX-Wert: " + value + b"\r\n"
        b"X-Twice: 1\r\nX-Twice: 2\r\n\r\n{}",
        close=False,
    )
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, headers=CLOSE))
        head, _ = await client.reply()
    assert head.startswith(b"HTTP/1.1 200 Sehr Gut\r\n")
    assert b"X-Wert: " + value + b"\r\n" in head
    assert b"X-Twice: 1\r\nX-Twice: 2\r\n" in head


async def test_a_header_value_that_is_no_utf8_does_no_harm(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Wert: gr\xf6\xdfe\r\n\r\n{}", close=False
    )
    async with connect(ollad.port) as client:
        await client.send(post_bytes(OPAQUE, PROMPT, headers=CLOSE))
        head, body = await client.reply()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"{}"


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]
)
async def test_interim_replies_are_not_the_reply(
    interim: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = raw(
        interim + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", close=False
    )
    response, body = await ollad.post(OPAQUE, PROMPT)
    assert (response.status, body) == (200, b"{}")
    assert "link" not in response.headers


EIGHT_MIB = 8 * 1024 * 1024


@pytest.mark.parametrize("path", [ROUTE, OPAQUE])
async def test_large_bodies_pass_both_ways(path: str, fake: FakeSGLang, ollad: Running) -> None:
    data = random.Random(7).randbytes(EIGHT_MIB)
    fake.scripts[path] = reply(data)
    sent = b'{"model": "tiny", "prompt": "' + b"x" * EIGHT_MIB + b'", "messages": []}'
    async with ollad.session.post(
        PREFIX + path, data=_slices(sent), headers={"Content-Type": "application/json"}
    ) as response:
        body = await response.read()
    assert response.headers["Content-Length"] == str(EIGHT_MIB)
    assert body == data
    (request,) = fake.requests
    assert request.body == sent
    assert request.header("Content-Length") == str(len(sent))
    assert request.header("Transfer-Encoding") is None


async def _slices(data: bytes) -> Any:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "500 Bug"])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("extra", [-1, 0, 1, 500_000])
async def test_a_reply_around_the_limit_of_what_is_held_is_whole(
    status: str, sized: bool, extra: int, fake: FakeSGLang, ollad: Running
) -> None:
    data = b"[" + b"1" * (1024 * 1024 + extra - 2) + b"]"
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    fake.scripts[ROUTE] = reply(data, status) if sized else chunks(data, head=head.encode())
    response, body = await ollad.post(ROUTE, CHAT)
    assert f"{response.status} {response.reason}" == status
    assert body == data
    assert ollad.gateway.runtime.pool.named("one").in_flight == 0


async def test_a_slow_client_pauses_its_own_backend_and_nobody_elses(
    fake: FakeSGLang, ollad: Running
) -> None:
    piece = chunked(b"data: " + b"x" * 65528 + b"\n\n")
    pieces = 1024  # 64 MiB
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(STREAM_HEAD)
        for _ in range(pieces):
            await exchange.send(piece)
            sent += 1
        await exchange.send(END)

    fake.scripts[ROUTE] = [flood, chunks(EVENT), chunks(EVENT)]
    async with connect(ollad.port) as slow:
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await slow.send(post_bytes(ROUTE, STREAM, headers=CLOSE))
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        # what kernels hold for three hops, and little more
        assert 0 < sent < pieces // 2
        _, body = await ollad.post(ROUTE, STREAM)
        assert body == EVENT
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await slow.head()
        taken = 0
        while data := await slow.reader.read(1 << 20):
            taken += len(data)
        assert taken >= pieces * 65536
        assert sent == pieces


async def test_two_hundred_streams_at_once_do_not_mix(fake: FakeSGLang, ollad: Running) -> None:
    all_there = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        name = exchange.json["messages"][0]["content"].encode()
        await exchange.send(STREAM_HEAD)
        if len(fake.requests) == 200:
            all_there.set()
        await all_there.wait()
        for number in range(10):
            await exchange.send(chunked(b"data: %s %d\n\n" % (name, number)))
            await asyncio.sleep(0)
        await exchange.send(END)

    fake.scripts[ROUTE] = script

    async def stream(name: str) -> None:
        body = {**STREAM, "messages": [{"role": "user", "content": name}]}
        async with connect(ollad.port) as client:
            await client.send(post_bytes(ROUTE, body, headers=CLOSE))
            _, data = await client.reply()
        expected = b"".join(b"data: %s %d\n\n" % (name.encode(), n) for n in range(10))
        assert dechunked(data) == expected

    await asyncio.gather(*(stream(f"client-{number}") for number in range(200)))
    await until(lambda: ollad.gateway.runtime.pool.named("one").in_flight == 0)
