"""A streamed body through ollad equals the backend's own, byte for byte.

Two runs of the backend itself differ in ids and times, and now and then in how many tokens an
event carries. So the first test listens on the wire and compares one and the same run, with
nothing normalised; the second compares runs through ollad with runs without it.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.curl import post
from tests.system.daemon import endpoint, running_ollad
from tests.system.rig import Server
from tests.system.tap import tapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.daemon import Ollad
    from tests.system.tap import Tap

ID = re.compile(rb'"id":"[0-9a-f]{32}"')
CREATED = re.compile(rb'"created":\d+')
SECONDS = re.compile(rb":\d+\.\d+(e-\d+)?")
"""The times of ``meta_info``: the only numbers with a fraction in a reply without logprobs."""
RUNS = 10

MESSAGES = [{"role": "user", "content": "Where is the light house, please?"}]
SAMPLING = {"temperature": 0, "max_new_tokens": 48}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 48}),
    "chat-with-usage": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": 48, "stream_options": {"include_usage": True}},
    ),
    "completion": ("/v1/completions", {"prompt": "The river and the stone", "max_tokens": 48}),
    "generate": ("/generate", {"text": "The green garden", "sampling_params": SAMPLING}),
}


def streamed(base: str, path: str, body: dict[str, Any]) -> bytes:
    reply = post(base + path, body)
    assert reply.status == 200, reply.body
    return reply.body


def normalised(body: bytes) -> bytes:
    """A body without what differs between two runs."""
    return SECONDS.sub(b":-", CREATED.sub(b'"created":-', ID.sub(b'"id":"-"', body)))


@pytest.fixture(scope="module")
def tap(generative: tuple[Server, ...]) -> Iterator[Tap]:
    with tapping(generative[0]) as tap:
        yield tap


@pytest.fixture(scope="module")
def tapped(tap: Tap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollad]:
    """ollad in front of one server, with a listener between them."""
    folder = tmp_path_factory.mktemp("tapped")
    with running_ollad([endpoint(Server("tapped", tap.url))], folder) as daemon:
        yield daemon


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_reaches_the_client_as_the_backend_sent_it(
    tapped: Ollad, tap: Tap, model: str, name: str
) -> None:
    path, members = REQUESTS[name]
    marker = uuid.uuid4().hex
    body = {"model": model, "stream": True, "temperature": 0.7, "user": marker, **members}
    received = streamed(tapped.api, path, body)
    assert received.endswith(b"data: [DONE]\n\n")
    assert received == tap.body_of_last_reply(marker.encode())


@pytest.mark.parametrize("name", REQUESTS)
def test_a_stream_equals_one_without_ollad(
    ollad: Ollad, generative: tuple[Server, ...], model: str, name: str
) -> None:
    path, members = REQUESTS[name]
    body = {"model": model, "stream": True, "temperature": 0, **members}
    for server in generative:  # from here on the prompt is cached everywhere
        streamed(server.url, path, body)
    direct: set[bytes] = set()
    through: set[bytes] = set()
    for _ in range(RUNS):
        direct.add(normalised(streamed(generative[0].url, path, body)))
        through.add(normalised(streamed(ollad.api, path, body)))
        if direct & through:
            return
    raise AssertionError(f"no run through ollad equals one without it:\n{through}\n{direct}")
