from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollad.metrics.histogram import Observations
from ollad.relay.chunks import opening
from ollad.relay.reading import RECENT_EVENTS
from ollad.replies import ClientSink, HoldSink, Reading
from ollad.sglang.events import StreamScanner
from tests.unit.builders import make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.record import RequestRecord
    from ollad.relay.exchange import Sink
    from ollad.sglang.annotate import Usage

REPLIES = Path(__file__).parents[1] / "data" / "replies"
KINDS = ("openai", "generate", "responses", "messages")
STREAMS = sorted(path.stem for path in REPLIES.glob("*.sse"))


def events_of(name: str) -> list[bytes]:
    """The events of a recorded stream, each with its blank line."""
    stream = (REPLIES / f"{name}.sse").read_bytes()
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def lengthened(events: list[bytes], times: int) -> list[bytes]:
    """The stream with all events but its first and its last ones repeated."""
    middle = max(1, len(events) - 4)
    return [*events[:1], *events[1:middle] * times, *events[middle:]]


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


class Watched:
    """A sink that a stream goes through, and what it counts."""

    def __init__(self, kind: str, *, stream: bool = True) -> None:
        self.gaps = Observations((0.001, 0.01, 0.1, 1.0))
        self.record: RequestRecord = make_record()
        self.kind = kind
        pool: dict[str, Any] = {}
        self.sink = ClientSink(
            cast("Any", None),
            self.record,
            cast("Any", SimpleNamespace(telemetry=SimpleNamespace(chunk_gaps=self._gaps_of))),
            cast("Any", SimpleNamespace(pool=pool)),
            Reading(kind, None),
        )
        if stream:
            self.sink._watch_stream()

    def _gaps_of(self, family: str) -> Observations:
        assert family == "chat"
        return self.gaps

    def one_by_one(self, events: Sequence[bytes], times: Sequence[float]) -> None:
        for event, now in zip(events, times, strict=True):
            self.sink.observe(event, now)

    def together(self, events: Sequence[bytes], last: float) -> None:
        """Have it told of events as who passes them on does, but for the gaps."""
        ending = self.sink.silent_ending() + b"\n\n"
        telling = [event for event in events if ending == b"\n\n" or not event.endswith(ending)]
        recent = [chunk(event) for event in telling[-RECENT_EVENTS:]]
        self.sink.observe_events(sum(map(len, events)), recent, last)

    @property
    def counted(self) -> tuple[object, ...]:
        return self.record.response_bytes, self.gaps.counts, pytest.approx(self.gaps.total)

    @property
    def usage(self) -> Usage | None:
        self.sink.read_stream()
        return self.record.usage


def clock(count: int, step: float = 0.007) -> list[float]:
    return [50.0 + step * place * (1 + place % 5) for place in range(count)]


def gone_through(
    kind: str, events: list[bytes], sizes: Sequence[int], last: Sequence[int] = ()
) -> Watched:
    """A stream seen in groups of these sizes after its first event, the last ones of ``last``.

    Groups of one are seen by ``observe``, and so are all if each event has to be seen.
    """
    watched = Watched(kind)
    times = clock(len(events))
    watched.one_by_one(events[:1], times[:1])
    gaps = watched.sink.event_gaps()
    at = 1
    begun: list[int] = []
    for size in sizes:
        if at + sum(begun) + size + sum(last) <= len(events):
            begun.append(size)
    for size in [*begun, max(0, len(events) - at - sum(begun) - sum(last)), *last]:
        group, when = events[at : at + size], times[at : at + size]
        if gaps is None or size == 1:
            watched.one_by_one(group, when)
        elif group:
            for before, now in pairwise([times[at - 1], *when]):
                gaps.observe(now - before)
            watched.together(group, when[-1])
        at += size
    return watched


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("times", [1, 3, 40])
def test_a_stream_seen_many_events_at_a_time_is_the_same_as_one_by_one(
    name: str, kind: str, times: int
) -> None:
    events = lengthened(events_of(name), times)
    single = Watched(kind)
    single.one_by_one(events, clock(len(events)))
    for sizes in ([], [1], [1, *[32] * 50], [16] * 50, [17, 1, *[32] * 50], [2, 1] * 30, [100, 1]):
        grouped = gone_through(kind, events, sizes, (2,) * (len(sizes) % 5))
        assert grouped.counted == single.counted
        assert grouped.usage == single.usage


@settings(max_examples=200)
@given(
    name=st.sampled_from(STREAMS),
    kind=st.sampled_from(KINDS),
    times=st.integers(1, 60),
    sizes=st.lists(st.sampled_from([1, 1, 2, 15, 16, 17, 32, 200]), max_size=60),
    last=st.lists(st.integers(1, 17), max_size=6),
    looks=st.lists(st.integers(0, 400), max_size=3),
)
def test_how_a_stream_is_grouped_makes_no_difference(
    name: str, kind: str, times: int, sizes: list[int], last: list[int], looks: list[int]
) -> None:
    events = lengthened(events_of(name), times)
    single = Watched(kind)
    single.one_by_one(events, clock(len(events)))
    grouped = gone_through(kind, events, sizes, last)
    assert grouped.counted == single.counted
    scanner, plain = grouped.sink.scanner, single.sink.scanner
    assert scanner is not None
    assert plain is not None
    assert scanner.final_usage(kind) == plain.final_usage(kind)
    assert scanner.first_event == plain.first_event
    ending = grouped.sink.silent_ending()
    if not ending or not events[-1].endswith(ending + b"\n\n"):  # else it need not be kept
        assert scanner.last_document() == plain.last_document()
    assert scanner.generate_text() == plain.generate_text()
    for place in looks:
        part = events[:place]
        seen, fresh = gone_through(kind, part, sizes), Watched(kind)
        fresh.one_by_one(part, clock(len(part)))
        assert seen.counted == fresh.counted
        assert seen.usage == fresh.usage


def generate_event(index: int | None, words: int, *, final: bool = False) -> bytes:
    info = {
        "finish_reason": {"type": "stop"} if final else None,
        "prompt_tokens": 3,
        "completion_tokens": words,
        "cached_tokens": 1,
    }
    event: dict[str, Any] = {"text": "w" * words, "meta_info": info}
    if index is not None:
        event["index"] = index
    return b"data: " + orjson.dumps(event) + b"\n\n"


@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=5),
    sizes=st.lists(st.sampled_from([1, 2, 16, 32]), max_size=20),
)
def test_of_a_stream_over_several_prompts_the_last_event_of_each_counts(
    lengths: list[int], sizes: list[int]
) -> None:
    steps = range(1, max(lengths) + 1)
    events = [
        generate_event(index, words, final=words == length)
        for words in steps
        for index, length in enumerate(lengths)
        if words <= length
    ]
    events.append(b"data: [DONE]\n\n")
    grouped, single = gone_through("generate", events, sizes), Watched("generate")
    single.one_by_one(events, clock(len(events)))
    assert grouped.counted == single.counted
    usage = grouped.usage
    assert usage == single.usage
    assert usage is not None
    assert usage.completion_tokens == sum(lengths)
    assert usage.prompt_tokens == 3 * len(lengths)


def test_the_text_of_a_generate_stream_over_one_prompt_is_its_last_events() -> None:
    events = [generate_event(None, words, final=words == 300) for words in range(1, 301)]
    watched = gone_through("generate", [*events, b"data: [DONE]\n\n"], [1, *[32] * 9])
    scanner = watched.sink.scanner
    assert scanner is not None
    assert scanner.generate_text() == "w" * 300


def test_of_a_long_stream_few_events_are_kept_and_scanned() -> None:
    events = lengthened(events_of("chat_stream_usage"), 40)
    watched = Watched("openai")
    watched.one_by_one(events[:1], [1.0])
    scanner = watched.sink.scanner
    assert scanner is not None
    fed = scanner._fed
    for at in range(1, len(events), 32):
        watched.together(events[at : at + 32], 2.0)
    assert scanner._fed == fed
    assert len(watched.sink._recent) <= 16
    watched.sink.catch_up()
    assert scanner._fed == sum(map(len, events))
    assert len(watched.sink._recent) == 0


def test_gaps_before_what_is_seen_are_counted_from_the_last_event_that_was_told_of() -> None:
    watched = Watched("openai")
    event = b"data: 1\n\n"
    watched.one_by_one([event], [10.0])
    watched.together([event] * 3, 10.555)
    assert sum(watched.gaps.counts) == 0
    watched.one_by_one([event, event], [12.555, 12.56])
    assert watched.gaps.counts == [0, 1, 0, 0, 1]
    assert watched.gaps.total == pytest.approx(2.005)
    assert watched.record.response_bytes == 6 * len(event)


def test_events_need_not_be_seen_once_the_first_has_been() -> None:
    watched = Watched("openai")
    assert watched.sink.event_gaps() is None
    for part in (b": ping\n\n", b"data: {"):
        watched.sink.observe(part, 1.0)
        assert watched.sink.event_gaps() is None
    watched.sink.observe(b"}\n\n", 2.0)
    assert watched.sink.event_gaps() is watched.gaps
    watched.together([b"data: {}\n\n"] * 40, 3.0)
    assert watched.sink.event_gaps() is watched.gaps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STREAMS)
def test_each_event_has_to_be_seen_of_a_stream_over_several_prompts_alone(
    name: str, kind: str
) -> None:
    watched = Watched(kind)
    watched.one_by_one(events_of(name)[:1], [1.0])
    several = name == "generate_list_stream"
    assert watched.sink.event_gaps() is (None if several else watched.gaps)


def test_of_what_is_no_stream_the_bytes_alone_are_counted() -> None:
    watched = Watched("openai", stream=False)
    watched.one_by_one([b"data: 1\n\n"] * 2, [10.0, 10.05])
    assert watched.sink.event_gaps() is None
    watched.together([b"data: 1\n\n"] * 2, 11.0)
    assert watched.record.response_bytes == 36
    assert sum(watched.gaps.counts) == 0
    assert watched.sink.scanner is None


@given(words=st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_the_framing_of_events_is_neither_counted_nor_scanned(words: list[int]) -> None:
    watched = Watched("generate")
    events = [generate_event(None, number, final=True) for number in words]
    assert all(chunk(event).startswith(opening(len(chunk(event)))) for event in events)
    first = generate_event(None, 1)
    watched.one_by_one([first], [1.0])
    watched.together(events, 2.0)
    assert watched.record.response_bytes == sum(map(len, [first, *events]))
    scanner = watched.sink.scanner
    assert scanner is not None
    assert scanner._fed == watched.record.response_bytes
    assert b"".join([first, *events]).endswith(scanner._tail)
    assert scanner.generate_text() == "w" * words[-1]


def test_a_reply_of_ollads_own_has_nothing_to_be_seen() -> None:
    sink: Sink = HoldSink()
    assert sink.event_gaps() is None
    sink.observe_events(9, [chunk(b"data: 1\n\n")], 1.0)


# --- the scanner that is spared most events ----------------------------------------------------


def test_before_the_first_event_is_there_no_other_may_be_missed() -> None:
    scanner = StreamScanner()
    assert not scanner.last_events_suffice
    scanner.feed(b": ping\n\ndata: {")
    assert not scanner.last_events_suffice
    scanner.feed(b"}\n\n")
    assert scanner.last_events_suffice


@pytest.mark.parametrize("before", [b"", b"data: {}\n\n" * 1000])
def test_the_one_event_behind_what_was_skipped_is_seen_as_a_whole(before: bytes) -> None:
    scanner = StreamScanner()
    scanner.feed(generate_event(None, 1) + before)
    scanner.skip(12345)
    scanner.feed(generate_event(None, 9, final=True))
    assert scanner.generate_text() == "w" * 9
    assert scanner.final_usage("generate").completion_tokens == 9


def test_of_a_stream_over_several_prompts_no_event_may_be_missed() -> None:
    scanner = StreamScanner()
    scanner.feed(generate_event(1, 1))
    assert not scanner.last_events_suffice
    scanner = StreamScanner()
    scanner.feed(generate_event(None, 1))
    assert scanner.last_events_suffice


@settings(max_examples=200)
@given(
    name=st.sampled_from(STREAMS),
    times=st.integers(1, 60),
    gaps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8),
    kept=st.integers(16, 40),
)
def test_what_is_skipped_of_the_middle_of_a_stream_is_not_missed(
    name: str, times: int, gaps: list[tuple[int, int]], kept: int
) -> None:
    events = lengthened(events_of(name), times)
    whole, spared = StreamScanner(), StreamScanner()
    for event in events:
        whole.feed(event)
    middle = max(0, len(events) - kept)
    at = 0
    for fed, skipped in gaps:
        for event in events[at : min(at + fed, middle)]:
            spared.feed(event)
        at = min(at + fed, middle)
        if spared.last_events_suffice:
            left_out = events[at : min(at + skipped, middle)]
            spared.skip(sum(map(len, left_out)))
            at += len(left_out)
    for event in events[at:]:
        spared.feed(event)
    assert spared.first_event == whole.first_event
    assert spared.last_document() == whole.last_document()
    assert [spared.final_usage(kind) for kind in KINDS] == [
        whole.final_usage(kind) for kind in KINDS
    ]
