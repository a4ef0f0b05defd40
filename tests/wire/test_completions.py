"""``/v1/completions`` on the wire."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ollad.config.schema import Annotate
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import event_bytes, reply, sse

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "The advantages", "max_tokens": 4}
WHOLE = (
    b'{"id":"1","object":"text_completion","created":1795351293,"model":"tiny","choices":[{"index":0,'
    b'"text":"\\u00e9 \xc3\xa9","logprobs":null,"finish_reason":"stop","matched_stop":1.50}],'
    b'"usage":{"prompt_tokens":8,"total_tokens":12,"completion_tokens":4,'
    b'"prompt_tokens_details":{"cached_tokens":6}},"metadata":{"weight_version":"default"} }\n'
)


def without_usage(**members: Any) -> dict[str, Any]:
    """A reply of a server that does not report its cache."""
    return {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 4}, **members}


async def test_a_whole_reply_keeps_its_bytes_and_gains_the_pages_metrics(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    response, body = await ollad.post(PATH, BODY)
    assert response.status == 200
    end = WHOLE.rindex(b"}")
    assert body.startswith(WHOLE[:end] + b',"metrics":{')
    assert body.endswith(b"}" + WHOLE[end:])
    metrics = json.loads(body)["metrics"]
    assert set(metrics) == {
        "time_to_first_token_ms",
        "generation_time_ms",
        "radix_cache_hit_rate",
    }
    assert metrics["radix_cache_hit_rate"] == 0.75
    assert metrics["generation_time_ms"] >= 0
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert response.headers["X-SGLang-Spec-Decode"] == "false"
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["X-Olla-Response-Time"].endswith("ms")


async def test_what_is_not_known_is_null_and_unknown(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(without_usage())
    response, body = await ollad.post(PATH, BODY)
    assert json.loads(body)["metrics"]["radix_cache_hit_rate"] is None
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"


async def test_a_backends_own_metrics_are_left_as_they_are(
    fake: FakeSGLang, ollad: Running
) -> None:
    own = b'{"metrics" : {"time_to_first_token_ms":35}, "choices":[], "usage":{"prompt_tokens":1}}'
    fake.scripts[PATH] = reply(own)
    _, body = await ollad.post(PATH, BODY)
    assert body == own


async def test_a_backends_own_headers_are_believed(fake: FakeSGLang, ollad: Running) -> None:
    own = {"X-SGLang-Cache-Hit": "false", "x-sglang-spec-decode": "true", "X-SGLang-Else": "1"}
    fake.scripts[PATH] = reply(WHOLE, headers=own)
    response, _ = await ollad.post(PATH, BODY)
    assert response.headers.getall("X-SGLang-Cache-Hit") == ["false"]
    assert response.headers.getall("X-SGLang-Spec-Decode") == ["true"]
    assert response.headers["X-SGLang-Else"] == "1"


async def test_a_streams_own_headers_are_believed(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Any) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nX-SGLang-Cache-Hit: true\r\n"
            b"connection: close\r\n\r\ndata: {}\n\n"
        )
        exchange.writer.close()

    fake.scripts[PATH] = script
    response, body = await ollad.post(PATH, {**BODY, "stream": True})
    assert body == b"data: {}\n\n"
    assert response.headers.getall("X-SGLang-Cache-Hit") == ["true"]
    assert response.headers.getall("X-SGLang-Spec-Decode") == ["false"]


async def test_nothing_is_added_where_that_is_switched_off(fake: FakeSGLang) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    async with running(endpoint(fake), annotate=Annotate(json=False)) as ollad:
        response, body = await ollad.post(PATH, BODY)
    assert body == WHOLE
    assert response.headers["X-SGLang-Cache-Hit"] == "true"


async def test_a_stream_passes_byte_for_byte(fake: FakeSGLang, ollad: Running) -> None:
    events = [
        event_bytes('{"choices": [{"text":  "a\\u00e9", "index": 0}]}'),
        b": a comment\n\n",
        event_bytes({"choices": [], "usage": without_usage()["usage"]}),
    ]
    fake.scripts[PATH] = sse(*events)
    response, body = await ollad.post(PATH, {**BODY, "stream": True})
    assert body == b"".join(events) + b"data: [DONE]\n\n"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in response.headers


async def test_an_error_of_the_backend_passes_untouched(fake: FakeSGLang, ollad: Running) -> None:
    own = (
        b'{"object":"error", "message":"too long","type":"BadRequestError","param":null,"code":400}'
    )
    for status in ("400 Bad Request", "404 Not Found", "422 Unprocessable Entity", "500 Oh dear"):
        fake.scripts[PATH] = reply(own, status)
        response, body = await ollad.post(PATH, BODY)
        assert f"{response.status} {response.reason}" == status
        assert body == own
        assert response.headers["X-Olla-Endpoint"] == "one"


async def test_a_long_reply_is_passed_on_while_it_is_made(fake: FakeSGLang, ollad: Running) -> None:
    half = b'{"choices": [{"text": "' + b"x" * (1024 * 1024)
    rest = b'"}], "usage": {"prompt_tokens": 8}}'

    passed_on = asyncio.Event()

    async def script(exchange: Any) -> None:
        length = len(half) + len(rest)
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % length
        )
        await exchange.send(half)
        await passed_on.wait()
        await exchange.send(rest)

    fake.scripts[PATH] = script
    async with ollad.session.post(PREFIX + PATH, json=BODY) as response:
        assert await response.content.readexactly(len(half)) == half
        passed_on.set()
        assert await response.read() == rest
    assert response.headers["Content-Length"] == str(len(half) + len(rest))
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"


async def test_a_reply_without_a_length_is_held_only_up_to_a_mebibyte(
    fake: FakeSGLang, ollad: Running
) -> None:
    passed_on = asyncio.Event()
    half = b'{"choices": [{"text": "' + b"x" * (1024 * 1024 + 1)

    async def script(exchange: Any) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(half), half)
        )
        await passed_on.wait()
        await exchange.send(b'3\r\n"}]\r\n1\r\n}\r\n0\r\n\r\n')

    fake.scripts[PATH] = script
    async with ollad.session.post(PREFIX + PATH, json=BODY) as response:
        assert await response.content.readexactly(len(half)) == half
        passed_on.set()
        assert await response.read() == b'"}]}'
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"
