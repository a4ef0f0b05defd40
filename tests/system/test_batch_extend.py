"""``/batch`` and ``/extend``, which no SGLang has: served by ollad over ``/generate``."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.system import page, rig
from tests.system.conftest import external
from tests.system.curl import post
from tests.system.daemon import endpoint, running_ollad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.curl import Reply
    from tests.system.daemon import Ollad
    from tests.system.rig import Server

ITEMS = 64
TURNS = 10
KILLED_AFTER_TURN = 6


def test_a_batch_of_64_is_answered_whole_and_in_order(ollad: Ollad) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    prompts = [f"Item {number} of the list:" + " river" * number for number in range(ITEMS)]
    items = [{"text": prompt, "sampling_params": sampling} for prompt in prompts]
    reply = post(f"{ollad.api}/batch", {"requests": items})
    assert reply.status == 200, reply.body
    answer = reply.json()
    page.assert_shape(page.BATCH, answer)
    assert answer["batch_meta"]["total_requests"] == ITEMS
    assert answer["batch_meta"]["successful"] == ITEMS
    for prompt, response in zip(prompts, answer["responses"], strict=True):
        assert response["text"].startswith(prompt)
        assert len(response["text"]) > len(prompt)
        assert response["meta"]["output_tokens"] == 8
    assert len({response["meta"]["id"] for response in answer["responses"]}) == ITEMS
    lengths = [response["meta"]["input_tokens"] for response in answer["responses"]]
    assert lengths[20] < lengths[30] < lengths[40] < lengths[50] < lengths[60]


def test_an_item_that_fails_leaves_the_others_whole(ollad: Ollad) -> None:
    good = {"text": "Hello", "sampling_params": {"max_new_tokens": 2}}
    bad = {"text": "Hello", "sampling_params": {"max_new_tokens": -5}}
    reply = post(f"{ollad.api}/batch", {"requests": [good, bad, good]})
    assert reply.status == 200, reply.body
    first, failed, last = reply.json()["responses"]
    assert failed["error"]["message"]
    assert first["meta"]["output_tokens"] >= 1
    assert last["meta"]["output_tokens"] >= 1
    assert reply.json()["batch_meta"]["successful"] == 2


@pytest.fixture
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A pair of servers of which either may be killed."""
    if external():
        pytest.skip("the servers of OLLAD_SGLANG_URL are not ours to kill")
    try:
        first, second = rig.start_all(("mortal-a", "mortal-b"), tmp_path_factory.mktemp("mortal"))
    except rig.RigUnavailableError as missing:
        pytest.skip(f"no real SGLang on this machine: {missing}")
    yield first, second
    rig.stop(first)
    rig.stop(second)


class Conversation:
    """A conversation by ``rid``; knows which backends have it in their cache."""

    def __init__(self, ollad: Ollad) -> None:
        self.ollad = ollad
        self.rid = f"conversation-{uuid.uuid4()}"
        self.visited: set[str] = set()
        self.last = ""
        self.hits: list[bool] = []
        self.context = 0

    def begin(self) -> None:
        """The first turn: ``/generate`` with a ``rid`` of the client's own."""
        reply = self._send("/generate", f"{self.rid}: The stone house stands by the river.")
        self.context = reply["meta"]["input_tokens"] + reply["meta"]["output_tokens"]

    def extend(self, text: str) -> None:
        """A later turn; the history is in the prompt, and the cache is hit where it can be."""
        answer = self._send("/extend", text)
        page.assert_shape(page.EXTEND, answer)
        assert answer["text"].startswith(text)
        meta = answer["meta"]
        assert meta["context_length"] >= self.context + meta["output_tokens"] > self.context
        assert meta["input_tokens"] < self.context
        self.context = meta["context_length"]

    def _send(self, path: str, text: str) -> Any:
        body = {
            "rid": self.rid,
            "text": text,
            "sampling_params": {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True},
        }
        reply: Reply = post(self.ollad.api + path, body)
        assert reply.status == 200, reply.body
        answer = reply.json()
        assert answer["meta"]["rid"] == self.rid
        self.last = reply.headers["x-olla-endpoint"]
        hit = answer["meta"]["radix_cache_hit"]
        assert reply.headers["x-sglang-cache-hit"] == ("true" if hit else "false")
        if self.last in self.visited:
            assert hit, f"{self.last} had the conversation in its cache"
        self.visited.add(self.last)
        self.hits.append(hit)
        return answer


def test_a_conversation_outlives_the_backend_that_held_it(
    mortal: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    endpoints = [endpoint(server) for server in mortal]
    with running_ollad(endpoints, tmp_path_factory.mktemp("ollad-mortal")) as ollad:
        conversation = Conversation(ollad)
        conversation.begin()
        for turn in range(2, KILLED_AFTER_TURN + 1):
            conversation.extend(f"\nTurn {turn}: and then?")
        (dead,) = (server for server in mortal if server.name == conversation.last)
        rig.kill(dead)
        for turn in range(KILLED_AFTER_TURN + 1, TURNS + 1):
            conversation.extend(f"\nTurn {turn}: and then?")
            assert conversation.last != dead.name
        assert all(conversation.hits[-3:])


def test_a_conversation_nobody_began_is_not_found(ollad: Ollad) -> None:
    reply = page.request("extend", ollad.url, **{"conversation-789": f"unknown-{uuid.uuid4()}"})
    assert reply.status == 404
    assert reply.json()["error"]["message"]
