"""Headers in both directions, on every kind of reply."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ollad.config.schema import Server
from tests.wire.conftest import PREFIX, Running, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, event_bytes, reply, sse
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.fake_sglang import Exchange

CHAT_PATH = "/v1/chat/completions"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
WHOLE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5},
    },
}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MILLISECONDS = re.compile(r"\d+ms")


def raw_reply(
    *lines: str, body: bytes = b'{"choices": []}'
) -> Callable[[Exchange], Awaitable[None]]:
    """A reply with exactly these header lines."""
    head = "\r\n".join(["HTTP/1.1 200 OK", *lines, f"content-length: {len(body)}", "", ""])

    async def script(exchange: Exchange) -> None:
        await exchange.send(head.encode() + body)

    return script


async def sent(fake: FakeSGLang, ollad: Running, headers: Any, **options: Any) -> Exchange:
    """What the backend got of a chat with these headers."""
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    response, _ = await ollad.post(CHAT_PATH, CHAT, headers=headers, **options)
    assert response.status == 200
    return fake.requests[-1]


# --- every kind of reply ---


async def whole(fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    return (await ollad.post(CHAT_PATH, CHAT))[0]


async def stream(fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    fake.scripts[CHAT_PATH] = sse({"choices": []})
    return (await ollad.post(CHAT_PATH, STREAM))[0]


async def synthesised(_fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    return (await ollad.get(f"{PREFIX}/health"))[0]


async def own_error(_fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    return (await ollad.post(CHAT_PATH, {**CHAT, "model": "none"}))[0]


async def backend_error(fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    fake.scripts[CHAT_PATH] = reply({"message": "too long"}, "400 Bad Request")
    return (await ollad.post(CHAT_PATH, CHAT))[0]


async def broken_backend(fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[CHAT_PATH] = reset
    return (await ollad.post(CHAT_PATH, CHAT))[0]


async def no_route(_fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    return (await ollad.get(f"{PREFIX}/nothing"))[0]


async def wrong_method(_fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    return (await ollad.get(PREFIX + CHAT_PATH))[0]


async def bad_json(_fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    kind = {"Content-Type": "application/json"}
    async with ollad.session.post(PREFIX + CHAT_PATH, data=b"{", headers=kind) as response:
        await response.read()
        return response


async def batch(fake: FakeSGLang, ollad: Running) -> aiohttp.ClientResponse:
    fake.scripts["/generate"] = reply({"text": "x", "meta_info": {"id": "1"}})
    return (await ollad.post("/batch", {"requests": [{"text": "a"}]}))[0]


Kind = Callable[[FakeSGLang, Running], Awaitable[aiohttp.ClientResponse]]

KINDS: dict[int, list[Kind]] = {
    200: [whole, stream, synthesised, batch],
    400: [backend_error, bad_json],
    404: [own_error, no_route],
    405: [wrong_method],
    502: [broken_backend],
}


@pytest.mark.parametrize(
    ("kind", "status"), [(kind, status) for status, kinds in KINDS.items() for kind in kinds]
)
async def test_every_reply_says_who_it_is_from_and_how_long_it_took(
    fake: FakeSGLang, ollad: Running, kind: Kind, status: int
) -> None:
    response = await kind(fake, ollad)
    assert response.status == status
    headers = response.headers
    assert UUID7.fullmatch(headers["X-Olla-Request-ID"])
    assert headers["x-request-id"] == headers["X-Olla-Request-ID"]
    assert headers["X-Olla-Backend-Type"] == "sglang"
    assert MILLISECONDS.fullmatch(headers["X-Olla-Response-Time"])
    for name in ("X-Olla-Request-ID", "x-request-id", "Server", "Date", "X-Olla-Response-Time"):
        assert len(headers.getall(name)) == 1


@pytest.mark.parametrize("kind", [whole, stream, backend_error, broken_backend, batch])
async def test_a_reply_of_a_backend_names_it_and_the_model(
    fake: FakeSGLang, ollad: Running, kind: Kind
) -> None:
    response = await kind(fake, ollad)
    assert response.headers["X-Olla-Endpoint"] == "one"
    assert response.headers["X-Olla-Model"] == "tiny"
    assert response.headers["X-SGLang-Cache-Hit"] in ("true", "false", "unknown")
    assert response.headers["X-SGLang-Spec-Decode"] in ("true", "false", "unknown")


async def test_an_error_names_the_model_as_the_client_spelled_it(ollad: Running) -> None:
    response, _ = await ollad.post(CHAT_PATH, {**CHAT, "model": "no/such model ü"})
    assert response.headers["X-Olla-Model"] == "no/such model %C3%BC"
    assert "X-Olla-Endpoint" not in response.headers


async def test_a_models_name_cannot_break_the_head(ollad: Running) -> None:
    response, _ = await ollad.post(CHAT_PATH, {**CHAT, "model": "a\r\nX-Evil: 1\x00" + "b" * 999})
    assert response.status == 404
    assert "X-Evil" not in response.headers
    assert response.headers["X-Olla-Model"].startswith("a%0D%0AX-Evil: 1%00bbb")
    assert len(response.headers["X-Olla-Model"]) <= 256


async def test_replies_outside_the_prefix_have_an_id_but_no_backend_type(ollad: Running) -> None:
    for path in ("/internal/health", "/metrics", "/version", "/nothing", "/"):
        response, _ = await ollad.get(path)
        assert UUID7.fullmatch(response.headers["X-Olla-Request-ID"])
        assert "X-Olla-Backend-Type" not in response.headers
        assert response.headers["Server"] == "ollad"


# --- the request id ---


async def test_the_request_id_is_the_same_upstream_and_downstream(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    response, _ = await ollad.post(CHAT_PATH, CHAT)
    assert fake.requests[0].header("X-Olla-Request-ID") == response.headers["X-Olla-Request-ID"]


async def test_a_clients_valid_request_id_is_kept(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    mine = {"X-Olla-Request-ID": "Mine_1.2-3"}
    response, _ = await ollad.post(CHAT_PATH, CHAT, headers=mine)
    assert response.headers["X-Olla-Request-ID"] == "Mine_1.2-3"
    values = [v for k, v in fake.requests[0].headers if k.lower() == "x-olla-request-id"]
    assert values == ["Mine_1.2-3"]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a,b", "naïve", "<script>"])
async def test_an_invalid_request_id_is_replaced(
    fake: FakeSGLang, ollad: Running, bad: str
) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    response, _ = await ollad.post(CHAT_PATH, CHAT, headers={"X-Olla-Request-ID": bad})
    assert UUID7.fullmatch(response.headers["X-Olla-Request-ID"])
    assert fake.requests[0].header("X-Olla-Request-ID") == response.headers["X-Olla-Request-ID"]


async def test_two_requests_have_two_ids(fake: FakeSGLang, ollad: Running) -> None:
    one, two = await whole(fake, ollad), await whole(fake, ollad)
    assert one.headers["X-Olla-Request-ID"] != two.headers["X-Olla-Request-ID"]


# --- to the backend ---


async def test_end_to_end_headers_pass_known_or_not_with_their_duplicates(
    fake: FakeSGLang, ollad: Running
) -> None:
    got = await sent(
        fake,
        ollad,
        [
            ("X-Custom", "one"),
            ("X-Custom", "two"),
            ("User-Agent", "tester/1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("tracestate", "a=b"),
            ("X-Request-ID", "theirs"),
        ],
    )
    assert [v for k, v in got.headers if k == "X-Custom"] == ["one", "two"]
    assert got.header("User-Agent") == "tester/1"
    assert got.header("traceparent") == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert got.header("tracestate") == "a=b"
    assert got.header("X-Request-ID") == "theirs"
    assert got.header("Host") == f"127.0.0.1:{fake.port}"


async def test_nothing_is_added_that_the_client_did_not_send(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/tokenize"] = reply({"tokens": [1]})
    body = b'{"model": "tiny", "prompt": "x"}'
    await exchange(
        ollad.port,
        request(f"POST {PREFIX}/tokenize", "Content-Type: application/json", body=body),
    )
    assert {name.lower() for name, _ in fake.requests[0].headers} == {
        "host",
        "content-type",
        "content-length",
        "via",
        "x-olla-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    }


async def test_hop_by_hop_headers_and_those_that_connection_names_stay_behind(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    body = b'{"model": "tiny", "messages": []}'
    await exchange(
        ollad.port,
        request(
            f"POST {PREFIX}{CHAT_PATH}",
            "Connection: X-Secret-Hop, keep-alive",
            "X-Secret-Hop: 1",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Trailer: X-T",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
            "Proxy-Connection: keep-alive",
            "Content-Type: application/json",
            body=body,
        ),
    )
    names = {name.lower() for name, _ in fake.requests[0].headers}
    assert not names & {
        *("x-secret-hop", "keep-alive", "te", "trailer", "upgrade", "http2-settings"),
        *("proxy-connection", "transfer-encoding"),
    }
    assert "X-Secret-Hop" not in (fake.requests[0].header("Connection") or "")
    assert fake.requests[0].body == body


async def test_a_chunked_request_arrives_with_a_length(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    body = b'{"model": "tiny", "messages": []}'

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:5]
        yield body[5:]

    kind = {"Content-Type": "application/json"}
    async with ollad.session.post(PREFIX + CHAT_PATH, data=pieces(), headers=kind) as response:
        assert response.status == 200
    got = fake.requests[0]
    assert got.header("Transfer-Encoding") is None
    assert got.header("Content-Length") == str(len(body))
    assert got.body == body


async def test_the_clients_credentials_never_reach_a_backend(
    fake: FakeSGLang, ollad: Running
) -> None:
    got = await sent(
        fake,
        ollad,
        {
            "Authorization": "Bearer client-secret",
            "X-API-Key": "client-secret",
            "Api-Key": "client-secret",
            "Cookie": "session=client-secret",
            "Proxy-Authorization": "Basic client-secret",
        },
    )
    assert "client-secret" not in str(got.headers)


async def test_an_endpoints_headers_are_sent_in_place_of_the_clients(fake: FakeSGLang) -> None:
    headers = {"X-API-Key": "for-backend", "Authorization": "Bearer for-backend", "x-extra": "mine"}
    async with running(endpoint(fake, headers=headers)) as ollad:
        got = await sent(
            fake, ollad, {"X-API-Key": "theirs", "Authorization": "theirs", "X-Extra": "theirs"}
        )
    for name in ("X-API-Key", "Authorization", "X-Extra"):
        values = [v for k, v in got.headers if k.lower() == name.lower()]
        assert len(values) == 1
        assert "theirs" not in values[0]


async def test_authorization_is_forwarded_only_where_that_is_configured(
    fake: FakeSGLang,
) -> None:
    async with running(endpoint(fake, forward_authorization=True)) as ollad:
        got = await sent(fake, ollad, {"Authorization": "Bearer theirs", "X-API-Key": "theirs"})
    assert got.header("Authorization") == "Bearer theirs"
    assert got.header("X-API-Key") is None


async def test_nobody_but_ollad_speaks_for_ollad_or_steers_sglang(
    fake: FakeSGLang, ollad: Running
) -> None:
    got = await sent(
        fake,
        ollad,
        {
            "X-Olla-Endpoint": "evil",
            "X-Olla-Model": "tiny",
            "x-sglext-anything": "evil",
            "X-Data-Parallel-Rank": "1",
        },
    )
    names = {name.lower() for name, _ in got.headers}
    assert not names & {"x-olla-endpoint", "x-olla-model", "x-sglext-anything"}
    assert "x-data-parallel-rank" not in names


async def test_forwarded_headers_of_a_stranger_are_dropped(
    fake: FakeSGLang, ollad: Running
) -> None:
    got = await sent(
        fake,
        ollad,
        {
            "X-Forwarded-For": "203.0.113.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Prefix": "/evil",
            "Forwarded": "for=203.0.113.9",
            "X-Real-IP": "203.0.113.9",
        },
    )
    assert got.header("X-Forwarded-For") == "127.0.0.1"
    assert got.header("X-Forwarded-Proto") == "http"
    assert got.header("X-Forwarded-Host") == f"127.0.0.1:{ollad.port}"
    assert "203.0.113.9" not in str(got.headers)
    assert "evil" not in str(got.headers)


async def test_forwarded_headers_of_a_trusted_proxy_are_kept_and_extended(
    fake: FakeSGLang,
) -> None:
    server = Server(trusted_proxies=("127.0.0.0/8",))
    async with running(endpoint(fake), server=server) as ollad:
        got = await sent(
            fake,
            ollad,
            [
                ("X-Forwarded-For", "203.0.113.9"),
                ("X-Forwarded-For", "198.51.100.3"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "api.example"),
            ],
        )
    assert got.header("X-Forwarded-For") == "203.0.113.9, 198.51.100.3, 127.0.0.1"
    assert got.header("X-Forwarded-Proto") == "https"
    assert got.header("X-Forwarded-Host") == "api.example"


async def test_via_names_ollad_after_those_before_it(fake: FakeSGLang, ollad: Running) -> None:
    assert (await sent(fake, ollad, {})).header("Via") == "1.1 ollad"
    assert (await sent(fake, ollad, {"Via": "1.1 edge"})).header("Via") == "1.1 edge, 1.1 ollad"


async def test_annotated_routes_ask_for_plain_replies(fake: FakeSGLang, ollad: Running) -> None:
    got = await sent(fake, ollad, {"Accept-Encoding": "gzip, br"})
    assert got.header("Accept-Encoding") == "identity"
    fake.scripts["/tokenize"] = reply({"tokens": []})
    await ollad.post("/tokenize", {"prompt": "x"}, headers={"Accept-Encoding": "gzip, br"})
    assert fake.requests[-1].header("Accept-Encoding") == "gzip, br"


# --- to the client ---


async def test_a_backends_end_to_end_headers_pass_with_their_duplicates(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = raw_reply(
        "X-Custom: one",
        "X-Custom: two",
        "server: uvicorn",
        "date: Mon, 01 Jan 2024 00:00:00 GMT",
        "content-type: application/json; odd=1",
    )
    response, _ = await ollad.post(CHAT_PATH, CHAT)
    assert response.headers.getall("X-Custom") == ["one", "two"]
    assert response.headers.getall("Server") == ["uvicorn"]
    assert response.headers.getall("Date") == ["Mon, 01 Jan 2024 00:00:00 GMT"]
    assert response.headers["Content-Type"] == "application/json; odd=1"


async def test_what_is_between_ollad_and_a_backend_stays_there(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = raw_reply(
        "Connection: X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Authenticate: Basic",
        "Proxy-Authentication-Info: x",
        "Set-Cookie: backend=secret",
        "Set-Cookie: two=secret",
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Credentials: true",
        "Alt-Svc: h3=backend",
        "X-Olla-Endpoint: evil",
        "X-Olla-Anything: evil",
        "x-request-id: evil",
        "content-type: application/json",
    )
    response, _ = await ollad.post(CHAT_PATH, CHAT)
    names = {name.lower() for name in response.headers}
    assert not names & {
        *("x-hop", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "set-cookie"),
        *("access-control-allow-origin", "access-control-allow-credentials", "alt-svc"),
        *("x-olla-anything", "connection"),
    }
    assert "evil" not in str(response.headers)
    assert response.headers["X-Olla-Endpoint"] == "one"


async def test_the_same_holds_for_streams_and_errors(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nSet-Cookie: a=secret\r\n"
            b"Access-Control-Allow-Origin: *\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n"
            b"data: [DONE]\n\n"
        )
        exchange.writer.close()

    fake.scripts[CHAT_PATH] = script
    streamed, _ = await ollad.post(CHAT_PATH, STREAM)
    fake.scripts[CHAT_PATH] = reply(
        {"message": "no"}, "400 Bad Request", {"Set-Cookie": "a=secret", "X-Kept": "1"}
    )
    refused, _ = await ollad.post(CHAT_PATH, CHAT)
    assert (streamed.status, refused.status) == (200, 400)
    for response in (streamed, refused):
        assert "Set-Cookie" not in response.headers
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "X-Hop" not in response.headers
    assert refused.headers["X-Kept"] == "1"


async def test_a_backends_own_sglang_headers_are_believed(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[CHAT_PATH] = raw_reply(
        "X-SGLang-Cache-Hit: true", "X-SGLang-Spec-Decode: true", "content-type: application/json"
    )
    response, _ = await ollad.post(CHAT_PATH, CHAT)
    assert response.headers.getall("X-SGLang-Cache-Hit") == ["true"]
    assert response.headers.getall("X-SGLang-Spec-Decode") == ["true"]


@pytest.mark.parametrize(("cached", "hit"), [(5, "true"), (0, "false"), (None, "unknown")])
async def test_the_cache_hit_is_the_backends_own_figure(
    fake: FakeSGLang, ollad: Running, cached: int | None, hit: str
) -> None:
    info = {"id": "1", "prompt_tokens": 10, "completion_tokens": 1}
    if cached is not None:
        info["cached_tokens"] = cached
    document = {"text": "x", "meta_info": info}
    fake.scripts["/generate"] = reply(document)
    whole, _ = await ollad.post("/generate", {"text": "p"})
    fake.scripts["/generate"] = sse(document)
    streamed, _ = await ollad.post("/generate", {"text": "p", "stream": True})
    assert whole.headers["X-SGLang-Cache-Hit"] == hit
    assert streamed.headers["X-SGLang-Cache-Hit"] == hit


async def test_a_chat_stream_does_not_guess(fake: FakeSGLang, ollad: Running) -> None:
    response = await stream(fake, ollad)
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"
    assert response.headers["X-Accel-Buffering"] == "no"


async def test_only_streams_ask_proxies_not_to_buffer(fake: FakeSGLang, ollad: Running) -> None:
    assert "X-Accel-Buffering" not in (await whole(fake, ollad)).headers


async def test_ignored_parameters_are_listed_on_whole_replies_and_streams(
    fake: FakeSGLang, ollad: Running
) -> None:
    extra = {"radix_cache_enable": True, "speculative_draft_length": 4, "made_up": 1}
    fake.scripts[CHAT_PATH] = [reply(WHOLE), sse({"choices": []})]
    one, _ = await ollad.post(CHAT_PATH, {**CHAT, **extra})
    two, _ = await ollad.post(CHAT_PATH, {**STREAM, **extra})
    for response in (one, two):
        listed = set(response.headers["X-Olla-Ignored-Params"].split(","))
        assert {name.strip() for name in listed} == {
            "radix_cache_enable",
            "speculative_draft_length",
        }
    assert "X-Olla-Ignored-Params" not in (await whole(fake, ollad)).headers


async def test_the_response_time_of_a_stream_is_that_of_its_first_byte(
    fake: FakeSGLang, ollad: Running
) -> None:
    event = event_bytes({"choices": []})
    fake.scripts[CHAT_PATH] = sse(event, event, pause=0.3)
    response, _ = await ollad.post(CHAT_PATH, STREAM)
    assert int(response.headers["X-Olla-Response-Time"].removesuffix("ms")) < 300


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection(
    fake: FakeSGLang, ollad: Running
) -> None:
    event = event_bytes({"choices": []})
    fake.scripts[CHAT_PATH] = sse(event)
    body = b'{"model": "tiny", "messages": [], "stream": true}'
    data = await exchange(
        ollad.port,
        b"POST %s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % ((PREFIX + CHAT_PATH).encode(), len(body), body),
    )
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert rest == event + b"data: [DONE]\n\n"
