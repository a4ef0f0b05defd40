"""Prompts of chaos: repeatable, and told apart by any part of what is said to them."""

from __future__ import annotations

import orjson
import pytest

from ollad.simulator.requestlog import prompt_ids
from tests.chaos.prompts import Content, expected, prompt, read_reply
from tests.chaos.records import Kind


def sse(*documents: object, done: bool = True) -> bytes:
    events = [b"data: " + orjson.dumps(document) + b"\n\n" for document in documents]
    return b"".join(events) + (b"data: [DONE]\n\n" if done else b"")


def delta(text: str, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}


def test_a_number_gives_the_same_prompt_each_time_with_its_id_in_it() -> None:
    one = prompt(1, 5)
    assert one == prompt(1, 5)
    assert prompt_ids(one.request()) == [one.id]
    assert f"X-Olla-Request-ID: {one.id}\r\n".encode() in one.request()


def test_prompts_are_of_every_kind_and_a_few_clients_leave() -> None:
    some = [prompt(1, number) for number in range(500)]
    assert {one.kind for one in some} == set(Kind)
    assert all(one.body["stream"] == one.kind.stream for one in some)
    assert 0 < sum(one.leaves_after is not None for one in some) < 30


def test_no_two_prompts_are_told_the_same() -> None:
    texts = [expected(prompt(1, number)) for number in range(2000)]
    assert len({text[:25] for text in texts}) == 2000
    assert min(map(len, texts)) > 10


def test_a_chat_stream_is_put_together() -> None:
    whole = sse(delta(""), delta("The "), delta("water"), delta("", "length"))
    assert read_reply(Kind.CHAT_STREAM, 200, whole) == Content("The water", True)


@pytest.mark.parametrize(
    "body",
    [
        sse(delta("The "), delta("water"), done=False),
        sse(delta("The "), delta("water", "length"), done=False),
        sse(delta("The "), delta("water")),
        sse(delta("The "), delta("water"), done=False) + b'data: {"choices": [{"del',
    ],
)
def test_a_stream_that_does_not_say_that_it_is_all_is_not(body: bytes) -> None:
    assert read_reply(Kind.CHAT_STREAM, 200, body) == Content("The water", False)


def test_a_generate_stream_is_what_its_last_event_says() -> None:
    events = [
        {"text": "The", "meta_info": {"finish_reason": None}},
        {"text": "The water", "meta_info": {"finish_reason": {"type": "length"}}},
    ]
    assert read_reply(Kind.GENERATE_STREAM, 200, sse(*events)) == Content("The water", True)
    assert read_reply(Kind.GENERATE_STREAM, 200, sse(events[0])) == Content("The", False)


def test_a_full_queue_in_a_stream_is_an_error() -> None:
    full = {"text": "", "meta_info": {"finish_reason": {"type": "abort"}}}
    assert read_reply(Kind.GENERATE_STREAM, 200, sse(full)).error
    error = {"error": {"message": "The request queue is full.", "code": 503}}
    found = read_reply(Kind.CHAT_STREAM, 200, sse(error))
    assert found == Content("", False, "503: The request queue is full.")


def test_plain_replies_are_read() -> None:
    message = {"message": {"content": "The water"}, "finish_reason": "length"}
    chat = orjson.dumps({"choices": [message]})
    assert read_reply(Kind.CHAT, 200, chat) == Content("The water", True)
    assert read_reply(Kind.CHAT, 200, chat[:-4]) == Content("", False)
    native = {"text": "The water", "meta_info": {"finish_reason": {"type": "length"}}}
    assert read_reply(Kind.GENERATE, 200, orjson.dumps(native)) == Content("The water", True)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error": {"message": "No.", "code": "no_backend"}}', "no_backend: No."),
        (b'{"message": "Full.", "code": 503}', "503: Full."),
        (b'{"error": "No."}', "No."),
        (b"Internal Server Error", ""),
        (b"", ""),
        (b"[]", ""),
    ],
)
def test_the_words_of_an_error_are_found_where_there_are_any(body: bytes, error: str) -> None:
    assert read_reply(Kind.CHAT_STREAM, 503, body).error == error
