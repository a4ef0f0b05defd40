"""``/extend`` on the wire: served by ollad over ``/generate``."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Conversations, Routing
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, event_bytes, reply, serving, sse
from tests.wire.generations import Gate, cumulative, echo, generation
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange

GENERATE = "/generate"


async def begin(ollad: Running, rid: str = "talk", text: str = "Hello", **more: Any) -> None:
    response, data = await ollad.post(GENERATE, {"text": text, "rid": rid, **more})
    assert response.status == 200, data


async def extend(ollad: Running, text: str, rid: str = "talk", **more: Any) -> tuple[int, Any]:
    response, data = await ollad.post("/extend", {"text": text, "rid": rid, **more})
    return response.status, json.loads(data)


async def test_an_extension_has_the_pages_shape(fake: FakeSGLang, ollad: Running) -> None:
    first = generation(" one two", prompt_tokens=3, completion_tokens=2)
    second = generation(" four", prompt_tokens=7, completion_tokens=1, cached_tokens=5)
    fake.scripts[GENERATE] = [reply(first), reply(second)]
    await begin(ollad)
    body = {"rid": "talk", "text": " three", "sampling_params": {"temperature": 0.3}}
    response, data = await ollad.post("/extend", body)
    answer = json.loads(data)
    assert answer.pop("meta_info") == second["meta_info"]
    assert answer == {
        "text": " three four",
        "meta": {
            "id": response.headers["X-Olla-Request-ID"],
            "rid": "talk",
            "finish_reason": "stop",
            "input_tokens": 2,
            "output_tokens": 1,
            "completion_time_ms": 250,
            "radix_cache_hit": True,
            "context_length": 8,
        },
    }
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert response.headers["X-Olla-Endpoint"] == "one"
    sent = fake.requests[1].json
    assert fake.requests[1].method == "POST"
    assert sent["text"] == "Hello one two three"
    assert sent["sampling_params"] == {"temperature": 0.3}
    assert re.fullmatch("[0-9a-f]{32}", sent["rid"])
    assert sent["rid"] != fake.requests[0].json["rid"]


async def test_only_rid_and_text_of_the_body_are_replaced(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[GENERATE] = echo
    await begin(ollad)
    sent = b'{ "rid":"talk" , "x": 1.50, "text":"\\u00e9", "y": [ 1e3 ] }'
    headers = {"Content-Type": "application/json"}
    async with ollad.session.post(PREFIX + "/extend?a=b", data=sent, headers=headers) as response:
        assert response.status == 200
    exchange = fake.requests[1]
    assert exchange.target == "/generate?a=b"
    pattern = (
        rb'\{ "rid":"[0-9a-f]{32}" , "x": 1\.50, "text":"Hello \[Hello\].*", "y": \[ 1e3 \] \}'
    )
    assert re.fullmatch(pattern, exchange.body)
    assert exchange.json["text"] == "Hello [Hello]é"


async def test_each_turn_holds_all_before_it(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[GENERATE] = echo
    await begin(ollad, text="a")
    for turn in (" b", " c"):
        status, _ = await extend(ollad, turn)
        assert status == 200
    assert [exchange.json["text"] for exchange in fake.requests] == [
        "a",
        "a [a] b",
        "a [a] b [b] c",
    ]


async def test_an_unknown_conversation_is_not_found(fake: FakeSGLang, ollad: Running) -> None:
    status, answer = await extend(ollad, "x", rid="nobody")
    assert (status, answer["error"]["code"]) == (404, "conversation_not_found")
    assert not fake.requests


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text": "x"}, "rid"),
        ({"text": "x", "rid": None}, "rid"),
        ({"text": "x", "rid": 5}, "rid"),
        ({"text": "x", "rid": ["talk"]}, "rid"),
        ({"text": "x", "rid": ""}, "rid"),
        ({"text": "x", "rid": "\n"}, "rid"),
        ({"rid": "talk"}, "text"),
        ({"rid": "talk", "text": ""}, "text"),
        ({"rid": "talk", "text": ["a"]}, "text"),
        ({"rid": "talk", "text": 5}, "text"),
        ({"rid": "talk", "text": "x", "sampling_params": {"n": 2}}, "sampling_params.n"),
        ({"rid": "talk", "text": "x", "session_params": {"id": "1"}}, "session_params"),
    ],
)
async def test_a_wrong_extension_is_refused_by_field(
    fake: FakeSGLang, ollad: Running, body: Any, param: str
) -> None:
    fake.scripts[GENERATE] = echo
    await begin(ollad)
    response, data = await ollad.post("/extend", body)
    assert (response.status, json.loads(data)["error"]["param"]) == (400, param)
    assert len(fake.requests) == 1
    status, _ = await extend(ollad, " still there")
    assert status == 200


async def test_a_second_extension_at_once_is_a_conflict(fake: FakeSGLang, ollad: Running) -> None:
    gate = Gate()
    fake.scripts[GENERATE] = [echo, gate]
    await begin(ollad)
    first = asyncio.create_task(extend(ollad, " b"))
    await until(lambda: gate.waiting == 1)
    status, answer = await extend(ollad, " c")
    assert (status, answer["error"]["code"]) == (409, "conversation_busy")
    gate.open()
    assert (await first)[0] == 200
    assert (await extend(ollad, " c"))[0] == 200
    assert fake.requests[-1].json["text"] == "Hello [Hello] b [b] c"


async def broken(exchange: Exchange) -> None:
    exchange.reset()


FAILURES = {
    "refused": (reply({"error": {"message": "too long"}}, "400 Bad Request"), 400),
    "failed": (reply(b"oops", "500 Internal Server Error", None, "text/plain"), 500),
    "full": (reply({"error": {"message": "full"}}, "503 Service Unavailable"), 503),
    "broken": (broken, 502),
    "aborted": (reply(generation(" half", reason="abort")), 200),
    "no text": (reply({"meta_info": {}}), 200),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_leaves_the_conversation_as_it_was(
    fake: FakeSGLang, ollad: Running, name: str
) -> None:
    script, status = FAILURES[name]
    fake.scripts[GENERATE] = echo
    await begin(ollad)
    fake.scripts[GENERATE] = script
    response, data = await ollad.post("/extend", {"text": " lost", "rid": "talk"})
    assert response.status == status, data
    fake.scripts[GENERATE] = echo
    assert (await extend(ollad, " kept"))[0] == 200
    assert fake.requests[-1].json["text"] == "Hello [Hello] kept"


async def test_an_aborted_extension_is_shown_as_one(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[GENERATE] = [echo, FAILURES["aborted"][0]]
    await begin(ollad)
    status, answer = await extend(ollad, " and")
    assert (status, answer["text"]) == (200, " and half")
    assert answer["meta"]["finish_reason"] == "abort"


async def test_a_client_that_goes_away_leaves_the_conversation_as_it_was(
    fake: FakeSGLang, ollad: Running
) -> None:
    gate = Gate()
    fake.scripts[GENERATE] = [echo, gate, echo]
    await begin(ollad)
    lost = asyncio.create_task(extend(ollad, " lost"))
    await until(lambda: gate.waiting == 1)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    await until(lambda: gate.gone == 1)
    await until(lambda: not ollad.gateway.conversations.stats().busy)
    assert (await extend(ollad, " kept"))[0] == 200
    assert fake.requests[-1].json["text"] == "Hello [Hello] kept"


async def test_a_stream_is_relayed_and_stored(fake: FakeSGLang, ollad: Running) -> None:
    events = cumulative("two three", prompt_tokens=5, cached_tokens=3)
    fake.scripts[GENERATE] = [echo, sse(*events), echo]
    await begin(ollad)
    response, data = await ollad.post("/extend", {"text": " x ", "rid": "talk", "stream": True})
    assert data == b"".join(event_bytes(event) for event in events) + b"data: [DONE]\n\n"
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert fake.requests[1].json["stream"] is True
    status, answer = await extend(ollad, " y")
    assert status == 200
    assert fake.requests[2].json["text"] == "Hello [Hello] x two three y"
    assert answer["meta"]["input_tokens"] == max(0, answer["meta_info"]["prompt_tokens"] - 7)


async def test_a_failed_stream_leaves_the_conversation_as_it_was(
    fake: FakeSGLang, ollad: Running
) -> None:
    failed = {"error": {"message": "out of memory", "code": 500}}
    fake.scripts[GENERATE] = [echo, sse(generation(" th", reason=None), failed), echo]
    await begin(ollad)
    await ollad.post("/extend", {"text": " x", "rid": "talk", "stream": True})
    assert (await extend(ollad, " y"))[0] == 200
    assert fake.requests[-1].json["text"] == "Hello [Hello] y"


async def test_a_conversation_outlives_the_backend_that_held_it() -> None:
    fakes = {"a": FakeSGLang(), "b": FakeSGLang()}
    for fake in fakes.values():
        fake.scripts[GENERATE] = echo
    async with (
        serving(*fakes.values()),
        running(*(endpoint(fake, name) for name, fake in fakes.items())) as ollad,
    ):
        response, _ = await ollad.post(GENERATE, {"text": "a", "rid": "talk"})
        holder = response.headers["X-Olla-Endpoint"]
        await fakes.pop(holder).stop()
        ((name, survivor),) = fakes.items()
        for turn in (" b", " c"):
            response, data = await ollad.post("/extend", {"text": turn, "rid": "talk"})
            assert response.status == 200, data
            assert response.headers["X-Olla-Endpoint"] == name
        assert survivor.requests[-1].json["text"] == "a [a] b [b] c"


async def test_figures_nobody_knows_are_null(fake: FakeSGLang, ollad: Running) -> None:
    bare = {"text": " x", "meta_info": {"finish_reason": {"type": "stop"}}}
    fake.scripts[GENERATE] = reply(bare)
    await begin(ollad)
    _, answer = await extend(ollad, " y")
    meta = answer["meta"]
    assert (meta["input_tokens"], meta["context_length"], meta["radix_cache_hit"]) == (None,) * 3
    assert isinstance(meta["completion_time_ms"], int)


async def test_a_conversation_goes_on_with_its_model(fake: FakeSGLang) -> None:
    fake.cards = [{**fake.cards[0], "id": name} for name in ("big", "small")]
    fake.scripts[GENERATE] = echo
    async with running(endpoint(fake)) as ollad:
        await begin(ollad, model="small")
        response, _ = await ollad.post("/extend", {"text": " b", "rid": "talk"})
        assert (response.status, response.headers["X-Olla-Model"]) == (200, "small")
        assert "model" not in fake.requests[-1].json
        status, answer = await extend(ollad, " b", rid="other")
        assert (status, answer["error"]["code"]) == (404, "conversation_not_found")


async def test_an_alias_is_spelled_out_to_the_backend(fake: FakeSGLang) -> None:
    fake.scripts[GENERATE] = echo
    async with running(endpoint(fake), routing=Routing(model_aliases={"gpt": "tiny"})) as ollad:
        await begin(ollad)
        assert (await extend(ollad, " b", model="gpt"))[0] == 200
        assert fake.requests[-1].json["model"] == "tiny"


async def test_conversations_are_forgotten_after_their_time(fake: FakeSGLang) -> None:
    fake.scripts[GENERATE] = echo
    async with running(endpoint(fake), conversations=Conversations(ttl=0.05)) as ollad:
        await begin(ollad)
        await asyncio.sleep(0.1)
        status, answer = await extend(ollad, " b")
        assert (status, answer["error"]["code"]) == (404, "conversation_not_found")


async def test_the_longest_unused_conversation_makes_room(fake: FakeSGLang) -> None:
    fake.scripts[GENERATE] = echo
    limits = Conversations(max_bytes=4096, max_conversation_bytes=4096)
    async with running(endpoint(fake), conversations=limits) as ollad:
        for rid in ("a", "b", "a", "c"):
            await begin(ollad, rid=rid, text="x" * 400)
        assert (await extend(ollad, "y", rid="a"))[0] == 200
        assert (await extend(ollad, "y", rid="b"))[0] == 404
        stats = ollad.gateway.conversations.stats()
        assert stats.bytes <= 4096


async def test_a_conversation_that_outgrows_its_limit_is_dropped_with_a_word(
    fake: FakeSGLang,
) -> None:
    fake.scripts[GENERATE] = echo
    async with running(
        endpoint(fake), conversations=Conversations(max_conversation_bytes=100)
    ) as ollad:
        await begin(ollad)
        assert (await extend(ollad, " " + "x" * 100))[0] == 200
        status, answer = await extend(ollad, " more")
        assert status == 404
        assert "max_conversation_bytes" in answer["error"]["message"]
