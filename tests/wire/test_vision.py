"""``/v1/chat/completions/vision`` on the wire."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Annotate, Media
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, event_bytes, reply, serving, sse
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running

VISION = "/v1/chat/completions/vision"
CHAT = "/v1/chat/completions"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
WHOLE = (
    b'{"id": "1", "choices": [{"index": 0, "finish_reason": "stop"}],  "usage": {"prompt_tokens":'
    b' 1024, "completion_tokens": 118, "prompt_tokens_details": {"image_tokens": 1012}}}'
)


def question(url: str = f"data:image/png;base64,{PNG}", **more: Any) -> dict[str, Any]:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


def seeing(*models: str) -> FakeSGLang:
    fake = FakeSGLang(models or ("tiny",))
    fake.model_info["has_image_understanding"] = True
    fake.scripts[CHAT] = reply(WHOLE)
    return fake


@asynccontextmanager
async def in_front_of(*fakes: FakeSGLang, **sections: Any) -> AsyncIterator[Running]:
    async with serving(*fakes):
        endpoints = [endpoint(fake, f"s{at}") for at, fake in enumerate(fakes)]
        async with running(*endpoints, **sections) as ollad:
            yield ollad


async def test_the_chat_route_of_a_seeing_backend_answers_with_vision_metrics() -> None:
    fake = seeing()
    async with in_front_of(fake) as ollad:
        response, body = await ollad.post(VISION + "?x=1", question())
    assert response.status == 200
    assert body.startswith(WHOLE[:-1])
    assert body[len(WHOLE) - 1 :].startswith(b',"vision_metrics":')
    assert json.loads(body)["vision_metrics"] == {
        "image_processing_time_ms": None,
        "vision_encoding_tokens": 1012,
    }
    assert "metrics" not in json.loads(body)
    (exchange,) = fake.requests
    assert (exchange.method, exchange.target) == ("POST", CHAT + "?x=1")
    assert exchange.json == question()


async def test_image_tokens_nobody_counted_are_null() -> None:
    fake = seeing()
    fake.scripts[CHAT] = reply({"choices": [], "usage": {"prompt_tokens": 3}})
    async with in_front_of(fake) as ollad:
        _, body = await ollad.post(VISION, question())
    assert set(json.loads(body)["vision_metrics"].values()) == {None}


async def test_a_backends_own_vision_metrics_are_believed() -> None:
    fake = seeing()
    own = b'{"choices": [], "vision_metrics": {"image_processing_time_ms": 145}}'
    fake.scripts[CHAT] = reply(own)
    async with in_front_of(fake) as ollad:
        assert (await ollad.post(VISION, question()))[1] == own


async def test_nothing_is_added_where_the_configuration_says_so() -> None:
    async with in_front_of(seeing(), annotate=Annotate(json=False)) as ollad:
        assert (await ollad.post(VISION, question()))[1] == WHOLE


async def test_only_backends_that_see_are_asked() -> None:
    blind, able = FakeSGLang(), seeing()
    blind.scripts[CHAT] = reply(WHOLE)
    async with in_front_of(blind, able, FakeSGLang()) as ollad:
        for _ in range(6):
            response, _ = await ollad.post(VISION, question())
            assert response.headers["X-Olla-Endpoint"] == "s1"
    assert (len(blind.requests), len(able.requests)) == (0, 6)


@pytest.mark.parametrize("told", [False, None])
async def test_without_a_backend_that_sees_the_client_is_told(told: bool | None) -> None:
    blind = FakeSGLang()
    blind.scripts[CHAT] = reply(WHOLE)
    blind.model_info["has_image_understanding"] = told
    async with in_front_of(blind, seeing("other")) as ollad:
        response, body = await ollad.post(VISION, question())
    error = json.loads(body)["error"]
    assert (response.status, error["code"]) == (400, "model_without_vision")
    assert "'tiny'" in error["message"]
    assert "images" in error["message"]
    assert not blind.requests


async def test_while_those_that_see_are_out_it_is_for_now() -> None:
    blind, able = FakeSGLang(), seeing()
    async with in_front_of(blind, able) as ollad:
        await able.stop()
        backend = ollad.gateway.runtime.pool.get("s1")
        assert backend is not None
        await until(lambda: not backend.routable)
        response, body = await ollad.post(VISION, question())
    assert (response.status, json.loads(body)["error"]["code"]) == (503, "no_backend")
    assert "Retry-After" in response.headers


async def test_a_stream_passes_as_it_is() -> None:
    fake = seeing()
    events = [event_bytes({"choices": [{"delta": {"content": word}}]}) for word in "ab"]
    fake.scripts[CHAT] = sse(*events)
    async with in_front_of(fake) as ollad:
        response, body = await ollad.post(VISION, question(stream=True))
    assert body == b"".join(events) + b"data: [DONE]\n\n"
    assert response.headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize(
    "url",
    ["...", "file:///etc/passwd", "/etc/passwd", "http://10.0.0.1/a.png", "https://example.com/a"],
)
async def test_media_that_a_server_would_fetch_are_refused(url: str) -> None:
    fake = seeing()
    async with in_front_of(fake) as ollad:
        response, body = await ollad.post(VISION, question(url))
    error = json.loads(body)["error"]
    assert response.status == 400
    assert "image_url" in error["param"]
    assert "media.allow_hosts" in error["message"]
    assert url in error["message"]
    assert not fake.requests


async def test_listed_hosts_may_be_fetched_from() -> None:
    fake = seeing()
    async with in_front_of(fake, media=Media(allow_hosts=("example.com",))) as ollad:
        response, _ = await ollad.post(VISION, question("https://example.com/a.png"))
    assert response.status == 200


async def test_an_error_of_the_backend_passes_untouched() -> None:
    fake = seeing()
    said = b'{"object": "error",  "message": "too many images", "code": 400}'
    fake.scripts[CHAT] = reply(said, "400 Bad Request")
    async with in_front_of(fake) as ollad:
        response, body = await ollad.post(VISION, question())
    assert (response.status, body) == (400, said)
