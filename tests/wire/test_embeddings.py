"""``/v1/embeddings`` on the wire."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running

PATH = "/v1/embeddings"
BODY = {"model": "BAAI/bge", "input": "SGLang provides", "encoding_format": "float"}
WHOLE = (
    b'{"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.02, -5e-2]}]'
    b', "model": "/models/bge", "usage": {"prompt_tokens": 12, "total_tokens": 12}}'
)


def embedder() -> FakeSGLang:
    """A server started with ``--is-embedding``."""
    fake = FakeSGLang(("BAAI/bge",))
    fake.model_info["is_generation"] = False
    fake.scripts[PATH] = reply(WHOLE)
    return fake


async def test_a_request_goes_to_the_backend_of_its_model_and_the_reply_is_untouched(
    fake: FakeSGLang,
) -> None:
    other = embedder()
    async with serving(other), running(endpoint(fake), endpoint(other, "two")) as ollad:
        response, body = await ollad.post(PATH, BODY)
    assert response.status == 200
    assert body == WHOLE
    assert response.headers["X-Olla-Endpoint"] == "two"
    assert response.headers["X-Olla-Model"] == "BAAI/bge"
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"
    assert "X-SGLang-Spec-Decode" in response.headers
    assert fake.requests == []
    assert other.requests[0].json == BODY


async def test_a_model_that_cannot_embed_answers_for_itself(
    fake: FakeSGLang, ollad: Running
) -> None:
    own = b'{"object":"error","message":"add --is-embedding","type":"BadRequest","code":400}'
    fake.scripts[PATH] = reply(own, "400 Bad Request")
    response, body = await ollad.post(PATH, {**BODY, "model": "tiny"})
    assert response.status == 400
    assert body == own


async def test_vectors_are_passed_on_as_they_come() -> None:
    passed_on = asyncio.Event()
    other = embedder()
    half, rest = WHOLE[:90], WHOLE[90:]

    async def script(exchange: Any) -> None:
        await exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(WHOLE), half)
        )
        await passed_on.wait()
        await exchange.send(rest)

    other.scripts[PATH] = script
    async with (
        serving(other),
        running(endpoint(other)) as ollad,
        ollad.session.post(PREFIX + PATH, json=BODY) as response,
    ):
        assert await response.content.readexactly(len(half)) == half
        passed_on.set()
        assert await response.read() == rest
        assert response.headers["Content-Length"] == str(len(WHOLE))


async def test_many_long_vectors_arrive_whole() -> None:
    other = embedder()
    vectors = json.dumps({"data": [[0.125] * 1024] * 600}).encode()
    other.scripts[PATH] = reply(vectors)
    async with serving(other), running(endpoint(other)) as ollad:
        _, body = await ollad.post(PATH, BODY)
    assert len(vectors) > 4 * 1024 * 1024
    assert body == vectors


async def test_a_compressed_reply_stays_compressed() -> None:
    other = embedder()
    packed = gzip.compress(WHOLE)
    other.scripts[PATH] = reply(packed, headers={"content-encoding": "gzip"})
    data = request(
        f"POST {PREFIX}{PATH}",
        "Content-Type: application/json",
        "Accept-Encoding: gzip, br",
        body=json.dumps(BODY).encode(),
    )
    async with serving(other), running(endpoint(other)) as ollad:
        answer = await exchange(ollad.port, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    assert body == packed
    assert other.requests[0].header("Accept-Encoding") == "gzip, br"
