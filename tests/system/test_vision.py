"""The vision route, in front of a scripted backend.

The tiny model of the test rig takes no images. The backend here plays ``tests/data/vision``: what
a real SGLang says, with the members that a vision model's server has. The last test asks the real
text-only servers, which must refuse.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system import page
from tests.system.daemon import endpoint, running_ollad
from tests.system.player import playing
from tests.system.rig import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.daemon import Ollad
    from tests.system.player import Player, Request

RECORDINGS = Path(__file__).parents[1] / "data/vision"
MODEL = "llava-hf/llava-1.5-13b-hf"
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
FILES = {
    "/health": "health",
    "/ready": "ready",
    "/model_info": "model_info",
    "/get_model_info": "model_info",
    "/server_info": "server_info",
    "/get_server_info": "server_info",
    "/v1/models": "models",
    "/v1/loads": "loads",
    "/metrics": "metrics",
}
WITH_IMAGE = {'"url": "..."': f'"url": "{IMAGE}"'}


def recording(name: str) -> bytes:
    return (RECORDINGS / f"{name}.raw").read_bytes()


def choose(request: Request) -> bytes:
    path = request.path.partition("?")[0]
    if request.method == "GET" and path in FILES:
        return recording(FILES[path])
    if (request.method, path) == ("POST", "/v1/chat/completions"):
        return recording("chat_stream" if request.json().get("stream") else "chat")
    return recording("not_found")


@pytest.fixture(scope="module")
def backend() -> Iterator[Player]:
    with playing(choose) as player:
        yield player


@pytest.fixture(scope="module")
def seeing(backend: Player, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollad]:
    server = Server("vision", backend.url)
    with running_ollad([endpoint(server)], tmp_path_factory.mktemp("vision")) as daemon:
        yield daemon


def test_a_question_about_an_image_is_answered_with_vision_metrics(
    seeing: Ollad, backend: Player
) -> None:
    reply = page.request("vision", seeing.url, MODEL, **WITH_IMAGE)
    assert reply.status == 200, reply.body
    page.assert_shape(page.VISION, reply.json())
    page.assert_headers(reply, MODEL)
    assert reply.headers["x-olla-endpoint"] == "vision"
    assert reply.json()["vision_metrics"]["vision_encoding_tokens"] == 576
    sent = backend.asked("POST", "/v1/chat/completions")[-1].json()
    assert sent["messages"][0]["content"][1]["image_url"]["url"] == IMAGE


def test_what_the_backend_said_is_kept_to_the_byte(seeing: Ollad) -> None:
    body = page.request("vision", seeing.url, MODEL, **WITH_IMAGE).body
    whole = recording("chat").partition(b"\r\n\r\n")[2]
    assert body.startswith(whole.rstrip()[:-1])


def test_an_answer_about_an_image_is_streamed_as_it_came(seeing: Ollad) -> None:
    stream = {'"max_tokens": 300': '"max_tokens": 300, "stream": true'}
    reply = page.request("vision", seeing.url, MODEL, **WITH_IMAGE, **stream)
    assert reply.status == 200, reply.body
    recorded = [line for line in recording("chat_stream").split(b"\n") if line[:6] == b"data: "]
    assert reply.body == b"".join(line + b"\n\n" for line in recorded)
    assert json.loads(reply.events()[-2])["usage"]["prompt_tokens_details"]["image_tokens"] == 576


def test_a_url_that_is_no_image_is_refused(seeing: Ollad, backend: Player) -> None:
    before = len(backend.asked("POST", "/v1/chat/completions"))
    reply = page.request("vision", seeing.url, MODEL)
    assert reply.status == 400
    error = reply.json()["error"]
    assert "image_url" in f"{error['param']} {error['message']}"
    assert "media.allow_hosts" in error["message"] or "media" in error["message"]
    assert len(backend.asked("POST", "/v1/chat/completions")) == before


def test_a_model_without_eyes_says_so(ollad: Ollad, model: str) -> None:
    reply = page.request("vision", ollad.url, model, **WITH_IMAGE)
    assert reply.status == 400
    assert "image" in reply.json()["error"]["message"]
