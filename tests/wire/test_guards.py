"""What is wrong with a request is said before a backend hears of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Media, Server
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import reply
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

JSON = {"Content-Type": "application/json"}
DOCUMENT_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/generate",
    "/batch",
    "/extend",
    "/v1/chat/completions/vision",
    "/tokenize",
    "/v1/rerank",
    "/v1/messages",
    "/v1/responses",
)
UNREADABLE = {
    "empty": b"",
    "blank": b" \r\n\t",
    "no JSON": b"hello",
    "cut off": b'{"model": "tiny", "messages": [',
    "trailing": b'{"model": "tiny"} x',
    "two objects": b'{"model": "tiny"}{"model": "tiny"}',
    "array": b'[{"model": "tiny"}]',
    "string": b'"tiny"',
    "number": b"1",
    "null": b"null",
    "nested arrays": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nested objects": b'{"a": ' * 900 + b"1" + b"}" * 900,
    "unclosed nesting": b'{"a": ' + b"[" * 100_000,
    "NaN": b'{"model": "tiny", "temperature": NaN}',
    "Infinity": b'{"model": "tiny", "temperature": -Infinity}',
    "single quotes": b"{'model': 'tiny'}",
    "comment": b'{"model": "tiny"} // really',
    "invalid UTF-8": b'{"model": "t\xff"}',
    "lone surrogate": b'{"model": "\\ud800"}',
    "UTF-16": '{"model": "tiny"}'.encode("utf-16"),
    "UTF-16 without mark": '{"model": "tiny"}'.encode("utf-16-le"),
    "UTF-32": '{"model": "tiny"}'.encode("utf-32"),
    "byte order mark": b'\xef\xbb\xbf{"model": "tiny"}',
    "control character": b'{"model": "t\x00"}',
    "form": b"model=tiny&prompt=hi",
}


async def refused(ollad: Running, path: str, body: bytes, **headers: str) -> dict[str, Any]:
    """The error of a request that is answered with 400."""
    async with ollad.session.post(
        PREFIX + path, data=body, headers={**JSON, **headers}
    ) as response:
        assert response.status == 400
        assert response.headers["Content-Type"].startswith("application/json")
        document = json.loads(await response.read())
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["type"] == "invalid_request_error"
    return dict(document["error"])


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_body_that_is_no_json_object_is_400(
    body: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    for path in DOCUMENT_ROUTES:
        await refused(ollad, path, body)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("member", "param"),
    [
        ('"model": 5', "model"),
        ('"model": ["tiny"]', "model"),
        ('"model": {}', "model"),
        ('"model": false', "model"),
        ('"model": 0', "model"),
        ('"rid": 7', "rid"),
        ('"rid": {"a": 1}', "rid"),
        ('"rid": ["a", 1]', "rid"),
        ('"rid": true', "rid"),
    ],
)
async def test_a_member_of_the_wrong_type_is_400_and_named(
    member: str, param: str, fake: FakeSGLang, ollad: Running
) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/generate", "/tokenize"):
        error = await refused(ollad, path, b'{"text": "x", %s}' % member.encode())
        assert error["param"] == param
    assert fake.requests == []


@pytest.mark.parametrize("value", ['"yes"', "1", "[]", "{}", "null", '"true"'])
async def test_what_stream_means_is_the_backends_word(
    value: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/chat/completions"] = reply({"object": "error"}, "400 Bad Request")
    error = b'{"model": "tiny", "stream": %s}' % value.encode()
    async with ollad.session.post(
        PREFIX + "/v1/chat/completions", data=error, headers=JSON
    ) as response:
        assert response.status == 400
        assert await response.json() == {"object": "error"}
    assert [one.body for one in fake.requests] == [error]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/jsonp",
        "application/json/x",
        "text/\xff",
    ],
)
async def test_what_is_not_called_json_is_415(
    content_type: str, fake: FakeSGLang, ollad: Running
) -> None:
    headers = [f"Content-Type: {content_type}"] if content_type else []
    for path in DOCUMENT_ROUTES:
        answer = await exchange(
            ollad.port, request(f"POST {PREFIX}{path}", *headers, body=b'{"model": "tiny"}')
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 415 ")
        assert json.loads(body)["error"]["param"] == "Content-Type"
    assert fake.requests == []


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
async def test_json_may_be_called_so_in_any_spelling(
    content_type: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/tokenize"] = reply({"tokens": []})
    async with ollad.session.post(
        PREFIX + "/tokenize", data=b"{}", headers={"Content-Type": content_type}
    ) as response:
        assert response.status == 200
    assert fake.requests[0].header("Content-Type") == content_type


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "zstd", "deflate", "identity, gzip"])
async def test_a_body_with_a_content_encoding_is_415(
    encoding: str, fake: FakeSGLang, ollad: Running
) -> None:
    for path in DOCUMENT_ROUTES:
        async with ollad.session.post(
            PREFIX + path, data=b'{"model": "tiny"}', headers={**JSON, "Content-Encoding": encoding}
        ) as response:
            assert response.status == 415
            assert (await response.json())["error"]["code"] == "unsupported_content_encoding"
    assert fake.requests == []


async def test_a_body_over_the_limit_is_413_however_it_comes(fake: FakeSGLang) -> None:
    body = b'{"model": "tiny", "prompt": "' + b"x" * 2000 + b'"}'

    async def pieces() -> Any:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    async with running(endpoint(fake), server=Server(max_body_size=1024)) as ollad:
        for data in (body, pieces()):
            async with ollad.session.post(
                PREFIX + "/v1/completions", data=data, headers=JSON
            ) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "payload_too_large"
        exact = b'{"model": "tiny", "prompt": ""}'
        exact = exact[:-2] + b"x" * (1024 - len(exact)) + exact[-2:]
        async with ollad.session.post(
            PREFIX + "/v1/completions", data=exact, headers=JSON
        ) as response:
            assert response.status == 404
    assert [len(one.body) for one in fake.requests] == [1024]


REFUSED: dict[str, Any] = {
    "bootstrap_host": "10.0.0.1",
    "bootstrap_port": 8998,
    "bootstrap_room": [1],
    "custom_logit_processor": "{}",
    "routed_dp_rank": 0,
    "data_parallel_rank": 1,
    "session_id": "s",
    "session_params": {"id": "s"},
    "return_hidden_states": True,
    "return_routed_experts": True,
}


@pytest.mark.parametrize("field", REFUSED)
async def test_a_refused_field_is_400_and_named(
    field: str, fake: FakeSGLang, ollad: Running
) -> None:
    body = json.dumps({"model": "tiny", "text": "x", "rid": "r", field: REFUSED[field]}).encode()
    for path in DOCUMENT_ROUTES:
        if path == "/batch":
            continue
        assert (await refused(ollad, path, body))["param"] == field
    assert fake.requests == []


async def test_a_refused_field_may_be_there_if_it_asks_for_nothing(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/generate"] = reply({"text": "", "meta_info": {}})
    body = {"text": "x", "session_params": None, "return_hidden_states": False}
    response, _ = await ollad.post("/generate", body)
    assert response.status == 200
    assert fake.requests[0].json == body


SECRETS = (
    "file:///etc/passwd",
    "/etc/passwd",
    "../models/image.png",
    "http://169.254.169.254/latest/meta-data",
    "https://intranet.example/x.png",
    "ftp://host.example/x.png",
    "FILE:///etc/passwd",
    " https://intranet.example/x.png",
    "",
)


@pytest.mark.parametrize("value", SECRETS)
async def test_a_medium_that_is_not_inline_is_400_naming_field_value_and_setting(
    value: str, fake: FakeSGLang, ollad: Running
) -> None:
    def chat(part: dict[str, Any]) -> dict[str, Any]:
        return {"model": "tiny", "messages": [{"role": "user", "content": [part]}]}

    bodies = {
        "messages[0].content[0].image_url.url": chat({"image_url": {"url": value}}),
        "messages[0].content[0].video_url.url": chat({"video_url": {"url": value}}),
        "messages[0].content[0].audio_url.url": chat({"audio_url": {"url": value}}),
        "messages[0].content[0].input_audio.data": chat({"input_audio": {"data": value}}),
        "image_data": {"text": "x", "image_data": value},
        "image_data[0][1]": {"text": ["x"], "image_data": [[None, value]]},
        "video_data": {"text": "x", "video_data": value},
        "audio_data[0]": {"text": "x", "audio_data": [value]},
    }
    for param, document in bodies.items():
        path = "/generate" if "text" in document else "/v1/chat/completions"
        error = await refused(ollad, path, json.dumps(document).encode())
        assert error["param"] == param
        assert repr(value) in error["message"]
        assert "media.allow_" in error["message"] or "is wanted" in error["message"]
    assert fake.requests == []


async def test_a_medium_at_an_allowed_host_or_inline_is_passed_on(fake: FakeSGLang) -> None:
    fake.scripts["/generate"] = reply({"text": "", "meta_info": {}})
    media = ["https://media.example/x.png", "data:image/png;base64,iVBORw0KGgo="]
    async with running(endpoint(fake), media=Media(allow_hosts=("media.example",))) as ollad:
        for medium in media:
            response, _ = await ollad.post("/generate", {"text": "x", "image_data": medium})
            assert response.status == 200
        body = {"text": "x", "image_data": "https://media.example.evil.example/x.png"}
        response, answer = await ollad.post("/generate", body)
        assert response.status == 400
        assert b"media.allow_hosts" in answer
    assert [one.json["image_data"] for one in fake.requests] == media


async def test_documented_parameters_that_no_server_has_are_passed_on_and_listed(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    body = {
        "model": "tiny",
        "max_tree_depth": 3,
        "no_such_parameter": 1,
        "radix_cache_enable": True,
        "return_logprob": True,
    }
    response, _ = await ollad.post("/v1/completions", body)
    assert response.headers["X-Olla-Ignored-Params"] == "max_tree_depth,radix_cache_enable"
    assert fake.requests[0].json == body
    response, _ = await ollad.post("/v1/completions", {"model": "tiny"})
    assert "X-Olla-Ignored-Params" not in response.headers


async def test_a_clients_rid_is_replaced_and_nothing_else(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/v1/completions"] = reply({"choices": []})
    sent = b'{"rid" : "mine", "model":"tiny",\n "prompt": "\\u00e9", "rid":"mine too" }'
    async with ollad.session.post(PREFIX + "/v1/completions", data=sent, headers=JSON) as response:
        assert response.status == 200
    received = fake.requests[0].body
    rid = fake.requests[0].json["rid"]
    assert len(rid) == 32
    assert int(rid, 16) >= 0
    assert received == sent.replace(b'"mine"', b'"%s"' % rid.encode(), 1).replace(
        b'"mine too"', b'"%s"' % rid.encode()
    )
    assert fake.requests[0].header("Content-Length") == str(len(received))


async def test_an_error_says_no_address(fake: FakeSGLang, ollad: Running) -> None:
    await fake.stop()
    for path in ("/v1/chat/completions", "/v1/embeddings", "/generate", "/tokenize"):
        response, body = await ollad.post(path, {"model": "tiny", "text": "x"})
        assert response.status == 503
        assert "Retry-After" in response.headers
        assert str(fake.port).encode() not in body
        assert b"127.0.0.1" not in body


@pytest.mark.parametrize(
    "header", ["X-Olla-Model", "X-Olla-Request-ID", "X-Forwarded-For", "Accept", "X-Anything"]
)
async def test_a_header_that_is_not_utf8_breaks_nothing(header: str, ollad: Running) -> None:
    data = request(
        f"POST {PREFIX}/v1/completions",
        "Content-Type: application/json",
        f"{header}: a\xff\xe9",
        body=b'{"prompt": "x"}',
    )
    answer = await exchange(ollad.port, data)
    assert answer.startswith(b"HTTP/1.1 404 ")
