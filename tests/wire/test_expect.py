"""``Expect: 100-continue`` (RFC 9110 §10.1.1): nobody sends a body that is not wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import reply
from tests.wire.raw import connected, exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

BODY = b'{"model": "tiny", "prompt": "x"}'
LENGTH = f"Content-Length: {len(BODY)}"
JSON = "Content-Type: application/json"
EXPECT = "Expect: 100-continue"


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("POST /flush_cache", (JSON, LENGTH), 404),
        ("POST /olla/sglang/flush_cache", (JSON, LENGTH), 404),
        ("PATCH /olla/sglang/v1/completions", (JSON, LENGTH), 405),
        ("POST /olla/sglang/health", (JSON, LENGTH), 405),
        ("POST /olla/sglang/v1/completions", (JSON, "Content-Length: 67108865"), 413),
        ("POST /olla/sglang/v1/completions", (JSON, "Content-Length: 99999999999999"), 413),
        ("POST /olla/sglang/v1/completions", ("Content-Type: text/plain", LENGTH), 415),
        ("POST /olla/sglang/v1/completions", (JSON, "Content-Encoding: gzip", LENGTH), 415),
        ("POST /olla/sglang/v1/audio/transcriptions", (JSON, LENGTH), 415),
        ("POST /olla/sglang/batch", (LENGTH,), 415),
    ],
)
async def test_a_request_that_is_refused_gets_no_100(
    line: str, headers: tuple[str, ...], status: int, fake: FakeSGLang, ollad: Running
) -> None:
    async with connected(ollad.port) as (reader, writer):
        writer.write(request(line, *headers, EXPECT))
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in head
    assert fake.requests == []


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue"])
async def test_a_good_request_gets_one_100_before_its_body(
    expectation: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    async with connected(ollad.port) as (reader, writer):
        writer.write(
            request(f"POST {PREFIX}/v1/completions", JSON, LENGTH, f"Expect: {expectation}")
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert fake.requests == []
        writer.write(BODY)
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"100 Continue" not in answer
    assert fake.requests[0].body == BODY
    assert fake.requests[0].header("Expect") is None


async def test_a_body_that_does_not_wait_is_taken_too(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    answer = await exchange(
        ollad.port, request(f"POST {PREFIX}/v1/completions", JSON, EXPECT, body=BODY)
    )
    assert answer.count(b"100 Continue") <= 1
    assert b"HTTP/1.1 200 " in answer


@pytest.mark.parametrize(
    ("version", "expectation"), [(b"1.0", "100-continue"), (b"1.1", "something-else")]
)
async def test_no_100_is_sent_to_those_who_did_not_ask_for_it(
    version: bytes, expectation: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    data = request(f"POST {PREFIX}/v1/completions", JSON, f"Expect: {expectation}", body=BODY)
    answer = await exchange(ollad.port, data.replace(b"HTTP/1.1", b"HTTP/" + version, 1))
    assert answer.startswith(b"HTTP/%s 200 " % version)


async def test_a_chunked_body_can_be_waited_for(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    async with connected(ollad.port) as (reader, writer):
        writer.write(
            request(f"POST {PREFIX}/v1/completions", JSON, "Transfer-Encoding: chunked", EXPECT)
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for part in (BODY[:7], BODY[7:]):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        writer.write(b"0\r\n\r\n")
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert fake.requests[0].body == BODY
    assert fake.requests[0].header("Content-Length") == str(len(BODY))
    assert fake.requests[0].header("Transfer-Encoding") is None
