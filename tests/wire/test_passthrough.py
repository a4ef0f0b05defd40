"""Further routes of SGLang on the wire: relayed as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ollad.config.schema import Routing
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply, serving
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running

DOCUMENTS = (
    "POST /tokenize",
    "POST /v1/tokenize",
    "POST /detokenize",
    "POST /v1/detokenize",
    "POST /v1/score",
    "POST /v1/classify",
    "POST /classify",
    "POST /encode",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /parse_function_call",
    "POST /separate_reasoning",
    "POST /v1/rerank",
    "PUT /v1/rerank",
)
SENT = b'{ "text": "\\u00e9", "n":1.50, "unknown" : [1e5] }'
BODIES = {
    "object": b'{"tokens" : [1, 2.0] }\n',
    "list": b'[ {"score": 0.10} ]',
    "string": b'"text"',
    "text": b"not JSON at all",
    "empty": b"",
}


@pytest.mark.parametrize("line", DOCUMENTS)
async def test_request_and_reply_pass_as_they_are(
    line: str, fake: FakeSGLang, ollad: Running
) -> None:
    method, _, path = line.partition(" ")
    for body in BODIES.values():
        fake.scripts[path] = reply(body, headers={"X-Own": "kept"})
        async with ollad.session.request(
            method, PREFIX + path, data=SENT, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 200
            assert await response.read() == body
            assert response.headers["X-Own"] == "kept"
            assert response.headers["X-Olla-Endpoint"] == "one"
            assert response.headers["X-Olla-Model"] == "tiny"
            assert response.headers["X-Olla-Backend-Type"] == "sglang"
        received = fake.requests[-1]
        assert (received.method, received.target, received.body) == (method, path, SENT)
        assert received.header("Content-Length") == str(len(SENT))


@pytest.mark.parametrize("path", ["/tokenize", "/v1/messages", "/v1/rerank"])
@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Internal Error"])
async def test_an_error_of_the_backend_passes_untouched(
    status: str, path: str, fake: FakeSGLang, ollad: Running
) -> None:
    own = b'{"type": "error", "error": {"type":"invalid_request_error", "message":"no"}}'
    fake.scripts[path] = reply(own, status)
    response, body = await ollad.post(path, {})
    assert f"{response.status} {response.reason}" == status
    assert body == own


async def test_put_goes_on_as_put_where_both_are_taken(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/generate"] = reply({"text": "", "meta_info": {}})
    for method in ("POST", "PUT"):
        async with ollad.session.request(
            method, PREFIX + "/generate", json={"text": "x"}
        ) as response:
            assert response.status == 200
    assert [one.method for one in fake.requests] == ["POST", "PUT"]


async def test_the_figures_of_a_message_become_headers(fake: FakeSGLang, ollad: Running) -> None:
    own = b'{"type":"message", "usage": {"input_tokens": 4, "cache_read_input_tokens": 6}}'
    fake.scripts["/v1/messages"] = reply(own)
    response, body = await ollad.post("/v1/messages", {"model": "tiny", "messages": []})
    assert body == own
    assert response.headers["X-SGLang-Cache-Hit"] == "true"


async def test_a_stream_of_messages_passes_byte_for_byte(fake: FakeSGLang, ollad: Running) -> None:
    events = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{}}}\n\n',
        b"event: ping\ndata: {}\n\n",
        b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
    )

    async def script(sent: Any) -> None:
        await sent.send(STREAM_HEAD + b"".join(map(chunked, events)) + b"0\r\n\r\n")

    fake.scripts["/v1/messages"] = script
    response, body = await ollad.post("/v1/messages", {"model": "tiny", "stream": True})
    assert body == b"".join(events)
    assert response.headers["X-Accel-Buffering"] == "no"


async def test_tokenizing_says_nothing_of_the_cache(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/tokenize"] = reply({"tokens": [1]})
    response, _ = await ollad.post("/tokenize", {"prompt": "x"})
    assert "X-SGLang-Cache-Hit" not in response.headers
    assert "X-SGLang-Spec-Decode" not in response.headers


def upload(model: str | None = None, *, model_last: bool = True) -> aiohttp.FormData:
    """A form as OpenAI's client sends it."""
    form = aiohttp.FormData()
    if model is not None and not model_last:
        form.add_field("model", model)
    form.add_field("file", b"RIFF\x00\xff--x\r\n", filename="a.wav", content_type="audio/wav")
    if model is not None and model_last:
        form.add_field("model", model)
    return form


async def transcribed(ollad: Running, form: aiohttp.FormData, **headers: str) -> Any:
    async with ollad.session.post(
        PREFIX + "/v1/audio/transcriptions", data=form, headers=headers
    ) as response:
        return response, await response.read()


@pytest.mark.parametrize("model_last", [True, False])
async def test_a_form_goes_to_a_backend_of_the_model_it_names(model_last: bool) -> None:
    one, two = FakeSGLang(("a/one",)), FakeSGLang(("openai/whisper",))
    two.scripts["/v1/audio/transcriptions"] = reply(b'{"text":  "hello"}')
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        response, body = await transcribed(ollad, upload("openai/whisper", model_last=model_last))
        assert response.status == 200
        assert body == b'{"text":  "hello"}'
        assert response.headers["X-Olla-Endpoint"] == "two"
        assert response.headers["X-Olla-Model"] == "openai/whisper"
        received = two.requests[0]
        assert (received.header("Content-Type") or "").startswith("multipart/form-data; bound")
        assert b"RIFF\x00\xff--x\r\n" in received.body
        response, body = await transcribed(ollad, upload("whisper"))
        assert response.status == 404
        assert json.loads(body)["error"]["code"] == "model_not_found"
        response, body = await transcribed(ollad, upload())
        assert response.status == 400
        assert json.loads(body)["error"]["code"] == "model_required"
        response, _ = await transcribed(ollad, upload(), **{"X-Olla-Model": "openai/whisper"})
        assert response.status == 200
    assert one.requests == []


async def test_the_only_model_is_meant_by_a_form_that_names_none(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/audio/transcriptions"] = reply({"text": ""})
    for form in (upload(), upload("default"), upload("")):
        response, _ = await transcribed(ollad, form)
        assert response.status == 200


async def test_an_alias_in_a_form_is_replaced_and_nothing_else_is(fake: FakeSGLang) -> None:
    fake.scripts["/v1/audio/transcriptions"] = reply({"text": ""})
    form = (
        b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nears\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\nears\r\n'
        b"--B--\r\n"
    )
    routing = Routing(model_aliases={"ears": "tiny"})
    async with running(endpoint(fake), routing=routing) as ollad:
        answer = await exchange(
            ollad.port,
            request(
                f"POST {PREFIX}/v1/audio/transcriptions",
                'Content-Type: multipart/form-data; boundary="B"',
                body=form,
            ),
        )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"X-Olla-Model: ears" in answer
    assert fake.requests[0].body == form.replace(b"\r\n\r\nears", b"\r\n\r\ntiny", 1)
    assert fake.requests[0].header("Content-Length") == str(len(form))


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xff",
        "multipart/mixed; boundary=x",
        "text/plain",
    ],
)
async def test_what_is_no_form_is_415(content_type: str, fake: FakeSGLang, ollad: Running) -> None:
    data = request(
        f"POST {PREFIX}/v1/audio/transcriptions", f"Content-Type: {content_type}", body=b"--x--"
    )
    answer = await exchange(ollad.port, data)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert fake.requests == []


@pytest.mark.parametrize(
    "body", [b"", b"--x--\r\n", b"--x\r\n", b"--x\r\n\r\n", b"nothing like it"]
)
async def test_a_form_that_cannot_be_read_is_the_backends_to_judge(
    body: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/audio/transcriptions"] = reply({"detail": "no file"}, "400 Bad Request")
    data = request(
        f"POST {PREFIX}/v1/audio/transcriptions",
        "Content-Type: multipart/form-data; boundary=x",
        body=body,
    )
    answer = await exchange(ollad.port, data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [one.body for one in fake.requests] == [body]
