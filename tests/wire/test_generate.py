"""``/generate`` on the wire."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Annotate
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    chunked,
    event_bytes,
    reply,
    sse,
)
from tests.wire.generations import cumulative, generation

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        FakeSGLang,
    )

PATH = "/generate"
WHOLE = (
    b'{ "text" : "\\u00e9 done", "output_ids": [1, 2], "meta_info": {"id": "abc", '
    b'"finish_reason": {"type": "stop", "matched": 4}, "prompt_tokens": 12, '
    b'"completion_tokens": 28, "cached_tokens": 8, "e2e_latency": 0.4502, "x": 1.50} }\n'
)


def kept(ollad: Running, rid: str) -> str | None:
    """The text of a stored conversation."""
    found = ollad.gateway.conversations._idle.get(("", rid))
    return None if found is None else found.text


async def test_a_whole_reply_gains_meta_and_keeps_every_byte(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    response, body = await ollad.post(PATH, {"text": "hi", "rid": "conversation-789"})
    assert response.status == 200
    head, tail = WHOLE[: WHOLE.rindex(b"}")], WHOLE[WHOLE.rindex(b"}") :]
    assert body.startswith(head)
    assert body.endswith(tail)
    added = body[len(head) : -len(tail)]
    assert added.startswith(b',"meta":')
    assert json.loads(body)["meta"] == {
        "id": response.headers["X-Olla-Request-ID"],
        "rid": "conversation-789",
        "finish_reason": "stop",
        "input_tokens": 12,
        "output_tokens": 28,
        "completion_time_ms": 450,
        "radix_cache_hit": True,
    }
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert response.headers["X-SGLang-Spec-Decode"] == "false"
    assert response.headers["X-Olla-Endpoint"] == "one"


async def test_without_a_rid_the_servers_own_is_given(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    sent = b'{"text":  "hi"}'
    async with ollad.session.post(
        PREFIX + PATH, data=sent, headers={"Content-Type": "application/json"}
    ) as response:
        assert (await response.json())["meta"]["rid"] == "abc"
    assert fake.requests[0].body == sent


async def test_the_clients_rid_is_replaced_by_one_that_is_no_prefix(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    for _ in range(2):
        await ollad.post(PATH, {"text": "hi", "rid": "a", "z": 1})
    first, second = (exchange.json for exchange in fake.requests)
    assert re.fullmatch("[0-9a-f]{32}", first["rid"])
    assert first["rid"] != second["rid"]
    assert {**first, "rid": "a"} == {"text": "hi", "rid": "a", "z": 1}


@pytest.mark.parametrize("body", [{"text": ["a", "b"]}, {"text": "a", "sampling_params": {"n": 2}}])
async def test_list_replies_pass_untouched(
    fake: FakeSGLang, ollad: Running, body: dict[str, Any]
) -> None:
    sent = json.dumps([generation("x"), generation("y")], indent=1).encode()
    fake.scripts[PATH] = reply(sent)
    response, received = await ollad.post(PATH, {**body, "rid": "list"})
    assert (response.status, received) == (200, sent)
    assert kept(ollad, "list") is None


async def test_a_list_of_rids_is_replaced_one_by_one(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply([generation("x"), generation("y")])
    await ollad.post(PATH, {"text": ["a", "b"], "rid": ["r", "r-1"]})
    rids = fake.requests[0].json["rid"]
    assert len(set(rids)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", rid) for rid in rids)


async def test_put_is_relayed_as_put(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    async with ollad.session.put(PREFIX + PATH + "?x=%26", json={"text": "hi"}) as response:
        assert (await response.json())["meta"]["output_tokens"] == 28
    assert (fake.requests[0].method, fake.requests[0].target) == ("PUT", "/generate?x=%26")


async def test_a_backends_own_meta_is_believed(fake: FakeSGLang, ollad: Running) -> None:
    own = (
        b'{"text": "hi there", "meta": {"id": "gen-1", "rid": "r", "finish_reason": "stop", '
        b'"input_tokens": 1, "output_tokens": 1, "radix_cache_hit": true}}'
    )
    fake.scripts[PATH] = reply(own, headers={"X-SGLang-Spec-Decode": "true"})
    response, body = await ollad.post(PATH, {"text": "hi", "rid": "r"})
    assert body == own
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert kept(ollad, "r") == "hi there"


async def test_nothing_is_added_where_the_configuration_says_so(fake: FakeSGLang) -> None:
    fake.scripts[PATH] = reply(WHOLE)
    async with running(endpoint(fake), annotate=Annotate(json=False)) as ollad:
        response, body = await ollad.post(PATH, {"text": "hi", "rid": "r"})
        assert body == WHOLE
        assert response.headers["X-SGLang-Cache-Hit"] == "true"
        assert kept(ollad, "r") == "hié done"


async def test_figures_no_server_could_mean_do_no_harm(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(generation("x", e2e_latency=9e17, prompt_tokens=-3))
    response, body = await ollad.post(PATH, {"text": "hi"})
    assert response.status == 200
    assert json.loads(body)["meta"]["input_tokens"] is None


@pytest.mark.parametrize("cached", [0, 7])
async def test_a_stream_passes_whole_and_knows_the_cache_hit_from_its_first_event(
    fake: FakeSGLang, ollad: Running, cached: int
) -> None:
    events = [event_bytes(event) for event in cumulative("one two three", cached_tokens=cached)]
    going_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(events[0]))
        await going_on.wait()
        for event in (*events[1:], b"data: [DONE]\n\n"):
            await exchange.send(chunked(event))
        await exchange.send(b"0\r\n\r\n")

    fake.scripts[PATH] = script
    async with ollad.session.post(
        PREFIX + PATH, json={"text": "count:", "rid": "s", "stream": True}
    ) as response:
        assert response.headers["X-SGLang-Cache-Hit"] == ("true" if cached else "false")
        assert response.headers["X-Accel-Buffering"] == "no"
        going_on.set()
        assert await response.read() == b"".join(events) + b"data: [DONE]\n\n"
    assert kept(ollad, "s") == "count:one two three"


async def test_a_whole_reply_is_kept_as_a_conversation(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(generation(" there", prompt_tokens=3, completion_tokens=2))
    await ollad.post(PATH, {"text": "hi", "rid": "w"})
    assert kept(ollad, "w") == "hi there"
    found = ollad.gateway.conversations._idle["", "w"]
    assert (found.model, found.tokens) == ("tiny", 5)


async def test_a_stream_of_deltas_is_no_conversation(fake: FakeSGLang, ollad: Running) -> None:
    events = [
        {**generation(word, reason="stop" if word == "c" else None, completion_tokens=at + 1)}
        for at, word in enumerate("abc")
    ]
    fake.scripts[PATH] = sse(*events)
    response, _ = await ollad.post(PATH, {"text": "hi", "rid": "d", "stream": True})
    assert response.status == 200
    assert kept(ollad, "d") is None


async def test_a_stream_of_0_4_6_is_cumulative_without_token_ids(
    fake: FakeSGLang, ollad: Running
) -> None:
    events = [{k: v for k, v in e.items() if k != "output_ids"} for e in cumulative("a b c")]
    fake.scripts[PATH] = sse(*events)
    await ollad.post(PATH, {"text": "hi ", "rid": "old", "stream": True})
    assert kept(ollad, "old") == "hi a b c"


FAILURES = {
    "a whole abort": reply(generation(" the", reason="abort")),
    "a refusal": reply({"error": {"message": "too long"}}, "400 Bad Request"),
    "a server error": reply(
        b"Internal Server Error", "500 Internal Server Error", None, "text/plain"
    ),
    "an error event": sse(
        generation(" the", reason=None), {"error": {"message": "no", "code": 500}}
    ),
    "an aborted stream": sse(generation(" the", reason="abort")),
    "a stream without end": sse(generation(" the", reason=None), done=False),
    "a reply without text": reply({"meta_info": {"id": "x"}}),
    "no JSON": reply(b"what?"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_failed_is_no_conversation(fake: FakeSGLang, ollad: Running, name: str) -> None:
    fake.scripts[PATH] = FAILURES[name]
    await ollad.post(PATH, {"text": "hi", "rid": "f", "stream": "stream" in name})
    assert kept(ollad, "f") is None


async def test_a_cut_stream_is_no_conversation(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Exchange) -> None:
        for event in cumulative("all of it"):
            await exchange.send(
                (STREAM_HEAD if event["text"] == "all" else b"") + chunked(event_bytes(event))
            )
        exchange.reset()

    fake.scripts[PATH] = script
    with pytest.raises(Exception, match=r"(?i)payload|disconnected|reset"):
        await ollad.post(PATH, {"text": "hi", "rid": "cut", "stream": True})
    assert kept(ollad, "cut") is None


async def test_a_failure_leaves_an_earlier_conversation_alone(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[PATH] = [reply(generation(" one")), FAILURES["a refusal"]]
    await ollad.post(PATH, {"text": "hi", "rid": "r"})
    response, body = await ollad.post(PATH, {"text": "no", "rid": "r"})
    assert (response.status, json.loads(body)) == (400, {"error": {"message": "too long"}})
    assert kept(ollad, "r") == "hi one"


async def test_prompts_of_token_ids_are_no_conversation(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[PATH] = reply(generation(" x"))
    response, _ = await ollad.post(PATH, {"input_ids": [1, 2], "rid": "ids"})
    assert response.status == 200
    assert kept(ollad, "ids") is None


async def test_a_conversation_keeps_its_model(fake: FakeSGLang) -> None:
    fake.cards = [{**fake.cards[0], "id": name} for name in ("big", "small")]
    fake.scripts[PATH] = reply(generation(" x"))
    async with running(replace(endpoint(fake))) as ollad:
        response, body = await ollad.post(PATH, {"text": "hi", "rid": "m"})
        assert response.status == 400
        assert "big, small" in json.loads(body)["error"]["message"]
        await ollad.post(PATH, {"text": "hi", "rid": "m"}, headers={"X-Olla-Model": "small"})
        assert ollad.gateway.conversations.model_of("", "m") == "small"
