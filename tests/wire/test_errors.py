"""Every error that ollad answers: the envelope, the status, and nothing it should not say."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from ollad.config.schema import Proxy, Server
from ollad.relay.forward import Relay
from ollad.replies import ClientSink
from tests.compiled import text_only
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    chunked,
    event_bytes,
    reply,
    sse,
)
from tests.wire.raw import connected, exchange, request, until

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        FakeSGLang,
    )
    from tests.wire.loglines import LogLines

CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SECRET = "sesame-in-a-header"


def check_envelope(body: bytes) -> dict[str, Any]:
    """The error in OpenAI's envelope."""
    document = json.loads(body)
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "api_error")
    assert isinstance(error["code"], str)
    assert "Traceback" not in error["message"]
    assert "127.0.0.1" not in error["message"]
    return error


def parse(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name, and body of a raw reply."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {k.lower(): v.strip() for k, _, v in pairs}, body


# --- what is wrong with a request ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"\xff\xfe",
        b'{"model": 1}',
        b'{"model": ["tiny"]}',
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"messages": "\xed\xa0\x80"}',
        b'{"model": "none"}',
    ],
    ids=lambda body: repr(body[:20]),
)
@pytest.mark.parametrize("route", [CHAT_PATH, "/generate", "/batch", "/extend", "/v1/embeddings"])
async def test_a_body_that_is_wrong_is_the_clients_fault(
    log: LogLines, ollad: Running, route: str, body: bytes
) -> None:
    kind = {"Content-Type": "application/json"}
    async with ollad.session.post(PREFIX + route, data=body, headers=kind) as response:
        assert 400 <= response.status < 500
        assert response.content_type == "application/json"
        error = check_envelope(await response.read())
        assert error["type"] == "invalid_request_error"
    assert "Traceback" not in log.text


async def test_a_route_that_does_not_exist_is_404(ollad: Running) -> None:
    for path in ("/", "/nothing", PREFIX, f"{PREFIX}/", f"{PREFIX}/server_info", "/olla/openai/v1"):
        response, body = await ollad.get(path)
        assert response.status == 404
        assert check_envelope(body)["code"] == "route_not_found"


async def test_a_wrong_method_is_405_with_those_that_are_right(ollad: Running) -> None:
    for method, path, allow in (
        ("GET", PREFIX + CHAT_PATH, "POST"),
        ("OPTIONS", PREFIX + CHAT_PATH, "POST"),
        ("DELETE", f"{PREFIX}/generate", "POST, PUT"),
        ("POST", f"{PREFIX}/health", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
    ):
        async with ollad.session.request(method, path) as response:
            assert response.status == 405
            assert response.headers["Allow"] == allow
            assert check_envelope(await response.read())["code"] == "method_not_allowed"


async def test_head_is_answered_where_get_is_and_without_a_body(ollad: Running) -> None:
    for path in (f"{PREFIX}/health", f"{PREFIX}/v1/models", "/metrics", "/internal/ready"):
        data = await exchange(ollad.port, request(f"HEAD {path}"))
        status, headers, body = parse(data)
        assert status == 200
        assert int(headers["content-length"]) > 0
        assert body == b""


async def test_a_body_over_the_limit_is_413_and_ends_the_connection(fake: FakeSGLang) -> None:
    async with running(endpoint(fake), server=Server(max_body_size=100)) as ollad:
        body = json.dumps({**CHAT, "x": "y" * 1000}).encode()
        async with connected(ollad.port) as (reader, writer):
            writer.write(
                f"POST {PREFIX}{CHAT_PATH} HTTP/1.1\r\nHost: a\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers, _ = parse(head)
            error = check_envelope(await reader.readexactly(int(headers["content-length"])))
            assert status == 413
            assert headers["connection"] == "close"
            assert error["code"] == "payload_too_large"
            writer.write(body)
            assert await reader.read() == b""


async def test_a_refused_small_body_does_not_cost_the_connection(ollad: Running) -> None:
    one, _ = await ollad.post("/nothing", {})
    assert one.status == 404
    assert one.headers.get("Connection") is None


# --- what is no request at all ---

BROKEN = {
    "no HTTP": (b"\x00\x01\x02 nonsense\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "version 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "version 9": (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    "no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad method": (b"GE T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad header": (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization %s\r\n\r\n" % SECRET.encode(), 400),
    "control character": (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: %s\x00\r\n\r\n" % SECRET.encode(),
        400,
    ),
    "folded header": (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", 400),
    "bad length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
    ),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "bad target": (b"GET nothing HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "long target": (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 9000), 414),
    "long header": (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: %s\r\n\r\n" % (b"a" * 20000), 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n", 400),
}


@pytest.mark.parametrize(("data", "expected"), BROKEN.values(), ids=BROKEN)
async def test_what_is_no_http_is_answered_in_the_envelope(
    log: LogLines, ollad: Running, data: bytes, expected: int
) -> None:
    status, headers, body = parse(await exchange(ollad.port, data))
    assert status == expected
    assert headers["content-type"] == "application/json"
    assert headers["server"] == "ollad"
    assert headers["x-olla-request-id"] == headers["x-request-id"]
    assert headers["x-olla-response-time"].endswith("ms")
    assert check_envelope(body)["type"] == "invalid_request_error"
    assert SECRET.encode() not in body
    (line,) = log.requests()
    assert line["status"] == expected
    assert line["request_id"] == headers["x-olla-request-id"]
    assert line["client"] == "127.0.0.1"
    assert "Traceback" not in log.text
    assert SECRET not in log.text
    _, page = await ollad.get("/metrics")
    assert (
        f'ollad_requests_total{{code="{expected}",family="other",model="other"}} 1.0'
        in page.decode()
    )


async def test_broken_chunks_of_a_body_are_the_clients_fault(log: LogLines, ollad: Running) -> None:
    head = request(
        f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", "Transfer-Encoding: chunked"
    )
    for chunks in (b"zz\r\n{}\r\n", b"5\r\n{}xxxxxxxx\r\n", b"2\r\n{}\r\nnonsense\r\n\r\n"):
        data = await exchange(ollad.port, head + chunks)
        status, _, _ = parse(data)
        assert status == 400
        assert check_envelope(data.partition(b"\r\n\r\n")[2])["code"] == "malformed_http"
    assert "Traceback" not in log.text
    assert {line["status"] for line in log.requests()} == {400}


async def test_targets_no_route_can_match_are_answered_in_the_envelope(
    log: LogLines, ollad: Running
) -> None:
    for line in ("OPTIONS *", "CONNECT example.org:443", "GET http://evil.example/x", "GET //x"):
        status, headers, body = parse(await exchange(ollad.port, request(line)))
        assert status in (400, 404)
        assert check_envelope(body)["type"] == "invalid_request_error"
        assert headers["x-olla-request-id"]
    assert "Traceback" not in log.text


# --- what is wrong with ollad ---


@text_only
async def test_a_mistake_of_ollads_own_is_500_and_logged_once(
    log: LogLines, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret reason")

    monkeypatch.setattr(Relay, "forward", fail)
    response, body = await ollad.post(CHAT_PATH, CHAT)
    assert response.status == 500
    error = check_envelope(body)
    assert (error["type"], error["code"]) == ("api_error", "internal_error")
    assert b"secret reason" not in body
    assert b"ZeroDivisionError" not in body
    assert response.headers["X-Olla-Request-ID"]
    (line,) = log.entries("unexpected error")
    assert line["request_id"] == response.headers["X-Olla-Request-ID"]
    assert "ZeroDivisionError: the secret reason" in line["exception"]
    assert log.text.count("Traceback") == 1
    assert [entry["status"] for entry in log.requests()] == [500]


async def test_a_mistake_below_the_application_is_500_too(
    log: LogLines, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("the secret reason")

    monkeypatch.setattr(web.UrlDispatcher, "resolve", fail)
    status, headers, body = parse(await exchange(ollad.port, request("GET /nowhere")))
    assert status == 500
    assert check_envelope(body)["code"] == "internal_error"
    assert b"secret reason" not in body
    assert headers["x-olla-request-id"]
    assert log.text.count("Traceback") == 1
    assert [entry["status"] for entry in log.requests()] == [500]


async def test_a_mistake_after_the_reply_has_begun_ends_the_connection(
    fake: FakeSGLang, log: LogLines, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("too late")

    monkeypatch.setattr(ClientSink, "observe", fail)
    fake.scripts[CHAT_PATH] = sse({"choices": []})
    body = json.dumps({**CHAT, "stream": True}).encode()
    data = b""
    async with connected(ollad.port) as (reader, writer):
        writer.write(
            request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
        )
        try:
            while chunk := await reader.read(1000):
                data += chunk
        except ConnectionResetError:
            pass
    assert not data.endswith(b"0\r\n\r\n")
    (line,) = log.entries("unexpected error")
    assert "ZeroDivisionError" in line["exception"]
    assert log.text.count("Traceback") == 1
    (access,) = log.requests()
    assert (access["status"], access["error"]) == (200, "internal_error")


# --- what is wrong with backends ---


async def test_a_backend_that_breaks_before_its_first_byte_is_502(
    fake: FakeSGLang, ollad: Running
) -> None:
    async def script(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[CHAT_PATH] = script
    response, body = await ollad.post(CHAT_PATH, CHAT)
    assert response.status == 502
    error = check_envelope(body)
    assert (error["type"], error["code"]) == ("api_error", "backend_error")
    assert str(fake.port) not in error["message"]


async def test_a_backend_that_talks_nonsense_is_502(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(b"nonsense\r\n\r\n")

    fake.scripts[CHAT_PATH] = script
    response, body = await ollad.post(CHAT_PATH, CHAT)
    assert response.status == 502
    check_envelope(body)


async def test_a_backend_that_is_silent_is_504(fake: FakeSGLang) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.client_gone.wait()

    fake.scripts[CHAT_PATH] = script
    async with running(endpoint(fake), proxy=Proxy(first_byte_timeout=0.1)) as ollad:
        response, body = await ollad.post(CHAT_PATH, CHAT)
    assert response.status == 504
    assert check_envelope(body)["type"] == "api_error"


async def test_without_a_backend_it_is_503_with_a_time_to_try_again(fake: FakeSGLang) -> None:
    await fake.stop()
    async with running(endpoint(fake)) as ollad:
        response, body = await ollad.post(CHAT_PATH, CHAT)
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        error = check_envelope(body)
        assert (error["type"], error["code"]) == ("api_error", "no_backend")
        ready, _ = await ollad.get("/internal/ready")
        assert ready.status == 503


async def test_a_backends_own_error_passes_untouched(fake: FakeSGLang, ollad: Running) -> None:
    own = b'{"object":"error", "message":"too long", "code":400}'
    fake.scripts[CHAT_PATH] = reply(own, "400 Bad Request", {"X-Own": "1"})
    response, body = await ollad.post(CHAT_PATH, CHAT)
    assert (response.status, body) == (400, own)
    assert response.headers["X-Own"] == "1"
    fake.scripts[CHAT_PATH] = reply(b"<h1>broken</h1>", "500 Very Wrong", content_type="text/html")
    response, body = await ollad.post(CHAT_PATH, CHAT)
    assert (response.status, response.reason, body) == (500, "Very Wrong", b"<h1>broken</h1>")
    assert response.content_type == "text/html"


# --- clients that leave ---


async def test_a_client_that_does_not_wait_is_499_in_the_log_and_nothing_else(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.client_gone.wait()

    fake.scripts[CHAT_PATH] = script
    body = json.dumps(CHAT).encode()
    async with connected(ollad.port) as (_, writer):
        writer.write(
            request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
        )
        await until(lambda: bool(fake.requests))
    await until(lambda: bool(log.requests()))
    await fake.requests[0].client_gone.wait()
    (line,) = log.requests()
    assert (line["status"], line["error"]) == (499, "client_gone")
    _, page = await ollad.get("/metrics")
    assert 'ollad_requests_total{code="499",family="chat",model="tiny"} 1.0' in page.decode()
    gc.collect()
    assert {entry["event"] for entry in log.entries()} == {
        "backend changed state",
        "listening",
        "request",
    }


async def test_a_client_that_leaves_a_stream_is_no_error_of_ollads(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        while not exchange.client_gone.is_set():
            await exchange.send(chunked(event_bytes({"choices": []})))
            await asyncio.sleep(0.005)

    fake.scripts[CHAT_PATH] = script
    body = json.dumps({**CHAT, "stream": True}).encode()
    async with connected(ollad.port) as (reader, writer):
        writer.write(
            request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
        )
        await reader.readuntil(b"data:")
        writer.transport.abort()
    await until(lambda: bool(log.requests()))
    (line,) = log.requests()
    assert (line["status"], line["error"], line["streamed"]) == (200, "client_gone", True)
    assert line["response_bytes"] > 0
    _, page = await ollad.get("/metrics")
    text = page.decode()
    assert 'ollad_stream_aborts_total{family="chat",side="client"} 1.0' in text
    assert 'ollad_requests_in_flight{family="chat"} 0.0' in text
    gc.collect()
    assert "Traceback" not in log.text


async def test_a_client_that_leaves_while_it_sends_its_body_is_499(
    log: LogLines, ollad: Running
) -> None:
    async with connected(ollad.port) as (_, writer):
        writer.write(
            f"POST {PREFIX}{CHAT_PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            'Content-Length: 1000\r\n\r\n{"mess'.encode()
        )
        await until(lambda: len(ollad.gateway.traffic) == 1)
    await until(lambda: bool(log.requests()))
    assert [line["status"] for line in log.requests()] == [499]
    assert "Traceback" not in log.text
