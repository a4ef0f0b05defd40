from __future__ import annotations

import itertools
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang.annotate import Usage
from ollad.sglang.events import EventError, StreamScanner, error_event, overloaded

REPLIES = Path(__file__).parents[2] / "data" / "replies"
STREAMS = sorted(path.name for path in REPLIES.glob("*.sse"))
CHATS = [name.removesuffix(".sse") for name in STREAMS if name.startswith(("chat", "cut", "compl"))]
KINDS = ("openai", "generate", "responses", "messages")


def stream(name: str) -> bytes:
    return (REPLIES / f"{name}.sse").read_bytes()


def scanned(data: bytes, tail: int = 64 * 1024, size: int = 100) -> StreamScanner:
    scanner = StreamScanner(tail)
    for at in range(0, len(data), size):
        scanner.feed(data[at : at + size])
    return scanner


def seen(scanner: StreamScanner) -> tuple[object, ...]:
    return (
        scanner.first_event,
        scanner.last_document(),
        scanner.generate_text(),
        *(scanner.final_usage(kind) for kind in KINDS),
    )


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("chat_stream_usage", "openai", Usage(48, 16, 32, finish_reason="length")),
        ("chat_stream_nousage", "openai", Usage(finish_reason="length")),
        ("chat_stream_continuous_usage", "openai", Usage(48, 16, 35, finish_reason="length")),
        ("plain_chat_stream_usage", "openai", Usage(17, 4, finish_reason="length")),
        ("messages_stream", "messages", Usage(16, 5, 15, finish_reason="max_tokens")),
        (
            "responses_stream",
            "responses",
            Usage(16, 3, 15, finish_reason="max_output_tokens"),
        ),
        (
            "generate_stream",
            "generate",
            Usage(
                2,
                8,
                1,
                finish_reason="length",
                e2e_seconds=0.017814780999742652,
                first_token_seconds=0.005942933999904199,
            ),
        ),
        ("generate_list_stream", "generate", Usage(4, 6, 2)),
    ],
)
def test_the_figures_of_a_real_servers_streams_are_found(
    name: str, kind: str, expected: Usage
) -> None:
    scanner = scanned(stream(name))
    assert scanner.final_usage(kind) == expected


def test_a_stream_that_was_cut_before_its_figures_has_none() -> None:
    scanner = scanned(stream("cut_chat_stream"))
    assert scanner.final_usage("openai") == Usage()
    assert StreamScanner().final_usage("openai") == Usage()


def test_the_first_event_is_there_once_it_is_complete() -> None:
    scanner = StreamScanner()
    found = []
    for chunk in (b": ping\n\nevent: x\nda", b"ta: 1\r\n\r", b"\ndata: 2\n\n"):
        scanner.feed(chunk)
        found.append(scanner.first_event)
    assert found == [None, b"event: x\ndata: 1", b"event: x\ndata: 1"]


def test_a_first_event_without_end_is_given_up() -> None:
    scanner = StreamScanner(tail=10)
    for _ in range(100):
        scanner.feed(b"x" * 1024)
    scanner.feed(b"\n\ndata: 1\n\n")
    assert scanner.first_event is None


def test_the_text_of_a_generate_stream_is_known_when_it_is_cumulative() -> None:
    scanner = scanned(stream("generate_stream"))
    assert scanner.generate_text() == 'In-":ouse socket isDogancel'
    assert scanner.generate_text(cumulative=True) == 'In-":ouse socket isDogancel'
    assert scanner.generate_text(cumulative=False) is None


def test_deltas_are_never_taken_for_the_text() -> None:
    scanner = scanned(stream("plain_generate_stream_incremental"))
    assert scanner.generate_text() is None
    assert scanner.generate_text(cumulative=False) is None


@pytest.mark.parametrize(
    "name", ["generate_list_stream", "queue_full_generate_stream", "chat_stream_usage"]
)
def test_streams_without_one_good_text_have_none(name: str) -> None:
    assert scanned(stream(name)).generate_text(cumulative=True) is None


def test_an_unfinished_generate_stream_has_no_text() -> None:
    whole = stream("generate_stream")
    cut = whole[: whole.index(b"\n\n", len(whole) // 2) + 2]
    assert scanned(cut).last_document() is not None
    assert scanned(cut).generate_text(cumulative=True) is None


def test_the_figures_are_found_though_the_last_event_outgrew_the_tail() -> None:
    info = {"finish_reason": {"type": "stop"}, "prompt_tokens": 3, "completion_tokens": 9000}
    text = '"meta_info":{"prompt_tokens":1} }' * 2000
    event = b"data: " + orjson.dumps({"text": text, "meta_info": info}) + b"\n\n"
    scanner = scanned(event + b"data: [DONE]\n\n", tail=4096, size=5000)
    assert scanner.final_usage("generate") == Usage(3, 9000, finish_reason="stop")
    assert scanner.last_document() is None
    assert scanner.generate_text(cumulative=True) is None


def test_figures_of_a_responses_stream_are_found_though_its_last_event_outgrew_the_tail() -> None:
    usage = {"input_tokens": 16, "input_tokens_details": {"cached_tokens": 15}, "output_tokens": 3}
    response = {
        "output": [{"text": "x" * 9000}],
        "usage": usage,
        "tools": [{"parameters": {"properties": {"usage": {"type": "object"}}}}],
    }
    event = orjson.dumps({"type": "response.completed", "response": response})
    scanner = scanned(b"event: response.completed\ndata: " + event + b"\n\n", tail=4096)
    assert scanner.final_usage("responses") == Usage(16, 3, 15)


def test_a_cut_event_without_figures_has_none() -> None:
    scanner = scanned(b'data: {"text":"' + b"x" * 9000 + b'","usage":' + b"}" * 100, tail=4096)
    assert all(scanner.final_usage(kind) == Usage() for kind in KINDS)


def test_sglext_and_usage_come_together() -> None:
    events = (
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
        b'data: {"choices":[],"sglext":{"cached_tokens_details":{"device":7}}}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
        b"data: [DONE]\n\n"
    )
    assert scanned(events).final_usage("openai") == Usage(9, 2, 7, finish_reason="stop")


def test_the_figures_before_an_error_in_mid_stream_count() -> None:
    events = (
        b'data: {"text":"a","meta_info":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
        b'data: {"error":{"message":"out of memory","code":500}}\n\ndata: [DONE]\n\n'
    )
    assert scanned(events).final_usage("generate") == Usage(5, 1)


@pytest.mark.parametrize("name", CHATS)
def test_no_event_of_a_real_server_that_ends_silently_tells_figures(name: str) -> None:
    data = stream(name)
    ending = scanned(data).silent_ending
    for event in data.split(b"\n\n") if ending else ():
        if event.endswith(ending):
            document = orjson.loads(event.removeprefix(b"data: "))
            assert not document.get("usage")
            assert [choice["finish_reason"] for choice in document["choices"]] == [None]


def test_all_but_the_last_events_of_a_chat_end_silently() -> None:
    events = stream("chat_stream_usage").split(b"\n\n")[:-1]
    ending = scanned(stream("chat_stream_usage")).silent_ending
    assert ending == b'"finish_reason":null,"matched_stop":null}]}'
    assert [event.endswith(ending) for event in events] == [True] * (len(events) - 3) + [False] * 3


@pytest.mark.parametrize(
    "first",
    [
        b'{"choices":[{"finish_reason":null}],"usage":{"prompt_tokens":5}}',
        b'{"usage":{"prompt_tokens":5},"choices":[{"finish_reason":null}]}',
        b'{"metrics":{"time_to_first_token_ms":12},"choices":[{"finish_reason":null}]}',
        b'{"sglext":{"cached_tokens_details":{"device":3}},"choices":[{"finish_reason":null}]}',
        b'{"choices":[{"meta_info":{"cached_tokens":3},"finish_reason":null}]}',
        b'{"choices":[{"finish_reason":null,"delta":{"content":"a"}}]}',
        b'{"choices":[{"finish_reason":"stop"}]}',
        b'{"choices":[{"delta":{"content":"\\"finish_reason\\":null"}}]}',
        b'{"choices":[]}',
    ],
)
def test_a_first_event_that_tells_more_shows_no_silent_ending(first: bytes) -> None:
    data = b"data: " + first + b"\n\n"
    assert scanned(data).silent_ending == b""
    assert scanned(data[:-1]).silent_ending == b""


def test_figures_of_what_followed_a_gap_are_found_whole() -> None:
    scanner = scanned(b'data: {"choices":[{"finish_reason":null}]}\n\n')
    scanner.skip(4000)
    scanner.feed(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')
    scanner.feed(b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\ndata: [DONE]\n\n')
    usage = scanner.final_usage("openai")
    assert (usage.finish_reason, usage.prompt_tokens) == ("stop", 5)


@pytest.mark.parametrize("kept", [b"", b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'])
def test_an_event_that_ends_in_a_gap_spoils_none_after_it(kept: bytes) -> None:
    scanner = scanned(b'data: {"choices":[{"finish_reason":null}]}\n\n' + kept)
    scanner.feed(b'data: {"choices":[{"del')
    scanner.skip(1000)
    scanner.feed(b'data: {"choices":[],"usage":{"prompt_tokens":5}}\n\n')
    usage = scanner.final_usage("openai")
    assert (usage.finish_reason, usage.prompt_tokens) == (None, 5)


@pytest.mark.parametrize("name", ["queue_full_chat_stream", "queue_full_generate_stream"])
def test_a_full_queue_is_told_from_the_first_event(name: str) -> None:
    start = stream(name)
    event = scanned(start).first_event
    assert event is not None
    for first in (event, start):
        assert overloaded(first)
        assert error_event(first) == EventError(503, "The request queue is full.")


def test_another_error_is_not_overload() -> None:
    event = scanned(stream("err_generate_stream_bad_param")).first_event or b""
    assert not overloaded(event)
    assert error_event(event) == EventError(400, "top_p must be in (0, 1], got 7.")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b'data: {"error":{"message":"busy","code":"429"}}', True),
        (b'data: {"error":{"message":"The request queue is full."}}', True),
        (b'event: error\ndata: {"type":"error","error":{"type":"x","message":"no"}}', False),
        (
            b'data: {"index":1,"meta_info":{"finish_reason":{"type":"abort","status_code":503}}}',
            False,
        ),
        (b'data: {"meta_info":{"finish_reason":{"type":"abort"}}}', False),
        (b'data: {"error":null,"text":""}', False),
        (b"data: [DONE]", False),
        (b": ping\n\n", False),
        (b"", False),
    ],
)
def test_overload_is_a_full_queue_and_nothing_else(event: bytes, expected: bool) -> None:
    assert overloaded(event) is expected


@pytest.mark.parametrize("name", STREAMS)
def test_no_overload_is_seen_in_streams_that_were_served(name: str) -> None:
    assert overloaded((REPLIES / name).read_bytes()) is name.startswith("queue_full")


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("space", [b" ", b""])
def test_every_line_ending_and_spacing_of_the_format_is_read(ending: bytes, space: bytes) -> None:
    events = stream("chat_stream_usage").replace(b"data: ", b"data:" + space)
    scanner = scanned(events.replace(b"\n", ending), size=7)
    assert scanner.final_usage("openai") == Usage(48, 16, 32, finish_reason="length")
    assert scanner.first_event == events.partition(b"\n\n")[0]


def test_data_over_several_lines_is_joined() -> None:
    scanner = scanned(b'id: 1\ndata: {"text":\ndata: "a"}\n\n')
    assert scanner.last_document() == {"text": "a"}


def chat_event(reason: str | None, usage: int | None) -> bytes:
    delta = {"content": 'a "usage" "finish_reason":"x"'}
    event: dict[str, object] = {"choices": [{"delta": delta, "finish_reason": reason}]}
    if usage is not None:
        event["usage"] = {"prompt_tokens": usage}
    return b"data: " + orjson.dumps(event) + b"\n\n"


CHAT_EVENTS = st.builds(
    chat_event,
    st.sampled_from([None, None, "stop", "length", "tool_calls", "", "A b", 'say "x"', "\u00e9"]),
    st.sampled_from([None, None, None, 7]),
)


@given(st.lists(CHAT_EVENTS, max_size=5))
def test_what_need_not_be_parsed_is_what_parsing_finds(events: list[bytes]) -> None:
    scanner = StreamScanner()
    for event in events:
        scanner.feed(event)
    # the parts of messages are always parsed, and there are none here
    assert scanner.final_usage("openai") == scanner.final_usage("messages")


@pytest.mark.parametrize("name", CHATS)
def test_streams_of_real_chats_need_not_be_parsed_to_be_known(name: str) -> None:
    scanner = scanned(stream(name))
    assert scanner.final_usage("openai") == scanner.final_usage("messages")


@pytest.mark.parametrize("tail", [16, 300, 64 * 1024])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_fed_event_by_event_is_known_as_one_fed_whole(name: str, tail: int) -> None:
    data = (REPLIES / name).read_bytes()
    whole, single = StreamScanner(tail), StreamScanner(tail)
    whole.feed(data)
    for event in data.splitlines(keepends=True):
        single.feed(event)
    by_event = StreamScanner(tail)
    for text in data.split(b"\n\n")[:-1]:
        by_event.feed(text + b"\n\n")
    by_event.feed(data.rpartition(b"\n\n")[2])
    assert seen(by_event) == seen(single) == seen(whole)


PIECES = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"data: ", b"data:", b": ping", b"[DONE]", b"event: x", b"\xff"),
        *(b'{"usage":{', b"}}", b'"meta_info":{', b'{"text":"a","meta_info":{"prompt_tokens":1}}'),
    ]
)


@given(
    st.sampled_from(STREAMS).map(lambda name: (REPLIES / name).read_bytes())
    | st.lists(PIECES, max_size=30).map(b"".join),
    st.lists(st.integers(0, 8000), max_size=12),
    st.sampled_from([16, 300, 64 * 1024]),
)
def test_where_a_stream_is_split_makes_no_difference(
    data: bytes, cuts: list[int], tail: int
) -> None:
    whole, split = StreamScanner(tail), StreamScanner(tail)
    whole.feed(data)
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        split.feed(data[start:end])
    assert seen(split) == seen(whole)
    assert seen(scanned(data, tail, size=1)) == seen(whole)


@given(
    st.sampled_from(STREAMS).map(lambda name: (REPLIES / name).read_bytes())
    | st.lists(PIECES, max_size=30).map(b"".join),
    st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=30),
    st.sampled_from([16, 300, 64 * 1024]),
)
def test_when_a_stream_is_looked_into_makes_no_difference(
    data: bytes, steps: list[tuple[int, bool]], tail: int
) -> None:
    never, often = StreamScanner(tail), StreamScanner(tail)
    at = 0
    for length, look in [*steps, (len(data), False)]:
        piece = data[at : at + length]
        at += length
        never.feed(piece)
        often.feed(piece)
        if look:
            fresh = StreamScanner(tail)
            fresh.feed(data[:at])
            assert seen(often) == seen(fresh)
    assert seen(never) == seen(often)


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 100))
def test_garbage_is_survived_and_no_more_than_the_bound_is_held(
    chunks: list[bytes], tail: int
) -> None:
    scanner = StreamScanner(tail)
    for chunk in chunks:
        scanner.feed(chunk)
        assert len(scanner._tail) <= tail
    seen(scanner)


def generate_event(words: int, *, reason: str | None = None, **more: object) -> bytes:
    info = {
        "finish_reason": None if reason is None else {"type": reason},
        "prompt_tokens": 3,
        "completion_tokens": words,
    }
    event = {"text": "word " * words, "output_ids": [*range(words)], "meta_info": info, **more}
    return b"data: " + orjson.dumps(event) + b"\n\n"


def test_no_more_than_the_last_event_and_the_one_under_way_is_held() -> None:
    scanner = StreamScanner(tail=1024 * 1024)
    for words in range(1, 3000, 20):
        event = generate_event(words, reason="stop" if words > 2980 else None)
        for at in range(0, len(event), 1000):
            scanner.feed(event[at : at + 1000])
            assert len(scanner._tail) <= 2 * len(event) + 2 * 4096
    scanner.feed(b"data: [DONE]\n\n")
    assert scanner.generate_text() == "word " * 2981
    assert scanner.final_usage("generate") == Usage(3, 2981, finish_reason="stop")


def test_an_ordinary_stream_is_held_in_a_few_kilobytes() -> None:
    scanner = StreamScanner(tail=1024 * 1024)
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"w" * 200 + b'"}}]}\n\n'
    for _ in range(1000):
        scanner.feed(event)
        assert sys.getsizeof(scanner._tail) < 16 * 1024
    scanner.feed(b'data: {"choices":[{"finish_reason":"stop"}]}\n\n')
    scanner.feed(b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n')
    scanner.feed(b"data: [DONE]\n\n")
    assert scanner.final_usage("openai") == Usage(9, 2, finish_reason="stop")


def test_the_last_event_of_every_prompt_counts_wherever_it_is() -> None:
    scanner = StreamScanner(tail=1024 * 1024)
    scanner.feed(generate_event(1, index=1))
    scanner.feed(generate_event(5, reason="stop", index=0))
    for words in range(2, 100):
        scanner.feed(generate_event(words, index=1))
    scanner.feed(generate_event(100, reason="stop", index=1) + b"data: [DONE]\n\n")
    assert scanner.final_usage("generate") == Usage(6, 105)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 60_000), max_size=12),
)
def test_where_a_long_stream_is_split_makes_no_difference(
    ending: bytes, sizes: list[int], cuts: list[int]
) -> None:
    events = b"".join(generate_event(size) + b": ping\n\n\n" for size in sizes)
    data = (events + b"data: [DONE]\n\n").replace(b"\n", ending)
    whole, split = StreamScanner(1024 * 1024), StreamScanner(1024 * 1024)
    whole.feed(data)
    for start, end in itertools.pairwise(sorted({0, len(data), *cuts, len(data) - 3})):
        split.feed(data[start:end])
    assert seen(split) == seen(whole)
    assert whole.final_usage("generate").completion_tokens == sizes[-1]


def test_the_text_of_a_server_too_old_for_token_ids_is_cumulative() -> None:
    events = [generate_event(n, reason="stop" if n == 2 else None) for n in (1, 2)]
    old = [orjson.loads(event[6:]) for event in events]
    for event in old:
        del event["output_ids"]
    data = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in old)
    assert scanned(data + b"data: [DONE]\n\n").generate_text() == "word word "


def test_the_first_event_is_read_while_the_stream_runs() -> None:
    scanner = StreamScanner()
    scanner.feed(b'event: response.created\ndata: {"response":{"id"')
    assert scanner.first_document() is None
    scanner.feed(b':"resp_1"}}\n\n')
    assert scanner.first_document() == {"response": {"id": "resp_1"}}


def test_the_start_is_not_kept_once_it_was_read() -> None:
    scanner = StreamScanner(tail=100)
    scanner.feed(b"data: 1\n\n" + b"x" * 1000)
    assert scanner.first_event == b"data: 1"
    assert scanner._head is None
    endless = scanned(b"y" * 200_000, tail=100, size=9999)
    assert endless.first_event is None
    assert endless._head is None
    assert len(endless._tail) == 100
