"""The judge of chaos finds each kind of broken promise, and excuses nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.judge import (
    CAME_BACK,
    DIED,
    FULL,
    LEFT,
    OUTAGE,
    OWN_CUT,
    WHOLE_STREAM,
    Promise,
    judge,
)
from tests.chaos.records import End, Kind, Reply, Trouble, Window, Work

TEXT = "The water turns north again"
PLAIN = Reply(
    id="p",
    kind=Kind.CHAT,
    sent=100.0,
    first=100.4,
    ended=100.5,
    end=End.WHOLE,
    status=200,
    endpoint="b0",
    request_id="p",
    retry_after=False,
    text=TEXT,
    finished=True,
    error="",
    reused=True,
)
STREAM = replace(PLAIN, kind=Kind.CHAT_STREAM)
CUT_STREAM = replace(STREAM, end=End.CUT, text=TEXT[:9], finished=False)
ERROR = replace(PLAIN, status=502, text="", finished=False, error="backend_error: it broke")
NO_BACKEND = replace(
    ERROR, status=503, endpoint="", error="no_backend: try again", retry_after=True
)
NO_REPLY = replace(ERROR, status=0, end=End.NOTHING, error="", endpoint="", request_id="")
STARTED = Work("p", "b0", "started", 100.1, 0, None)
FINISHED = replace(STARTED, event="finished", time=100.45, status=200)
DROPPED = replace(STARTED, event="dropped", time=100.45)
ELSEWHERE = replace(FINISHED, backend="b1")
ALL_DEAD = tuple(Window(name, Trouble.KILL, 99.0, 101.0) for name in ("b0", "b1"))


def trouble(what: Trouble, begin: float = 100.2, end: float = 103.0, name: str = "b0") -> Window:
    return Window(name, what, begin, end)


def judged(
    *replies: Reply, works: tuple[Work, ...] = (), windows: tuple[Window, ...] = (), **changes: Any
) -> tuple[dict[str, int], list[Promise]]:
    verdict = judge(
        changes.get("prompts", ["p"]),
        replies,
        works,
        windows,
        backends=["b0", "b1"],
        expected=lambda _: TEXT,
        recovery=1.0,
    )
    counts = {name: count for name, count in verdict.counts.items() if name != "broken promise"}
    return counts, [finding.promise for finding in verdict.findings]


@pytest.mark.parametrize(
    ("reply", "count"),
    [(PLAIN, FULL), (STREAM, WHOLE_STREAM), (replace(CUT_STREAM, end=End.LEFT), LEFT)],
)
def test_what_is_as_it_should_be_breaks_no_promise(reply: Reply, count: str) -> None:
    assert judged(reply, works=(STARTED, FINISHED)) == ({count: 1}, [])


@pytest.mark.parametrize(
    "reply",
    [
        ERROR,
        NO_BACKEND,
        NO_REPLY,
        replace(NO_REPLY, end=End.REFUSED),
        replace(ERROR, status=504),
        replace(ERROR, status=503, retry_after=True, error="503: the backend's own"),
        replace(PLAIN, end=End.CUT, finished=False, text=""),
        replace(ERROR, kind=Kind.CHAT_STREAM),
        replace(STREAM, text="", finished=False, error="503: queue full"),
        replace(STREAM, text="", finished=False, error="503: queue full", end=End.CUT),
    ],
)
def test_a_request_that_another_backend_could_have_served_is_found(reply: Reply) -> None:
    assert judged(reply, works=(STARTED, DROPPED)) == ({}, [Promise.UNSERVED])
    # somebody else's death is no excuse, nor is one at another time, nor a mere stop
    for other in (
        trouble(Trouble.KILL, name="b1"),
        trouble(Trouble.KILL, begin=100.6),
        trouble(Trouble.KILL, begin=90.0, end=99.9),
        trouble(Trouble.STOP),
        trouble(Trouble.BLACK_HOLE),
        trouble(Trouble.RESTART),
        trouble(Trouble.REMOVE),
        trouble(Trouble.UNAVAILABLE),
    ):
        assert judged(reply, works=(STARTED, DROPPED), windows=(other,))[1] == [Promise.UNSERVED]


@pytest.mark.parametrize("fault", ["reset", "truncate", "garbage"])
def test_a_clear_502_is_right_where_the_backend_broke_the_request(fault: str) -> None:
    lines = (replace(STARTED, fault=fault), replace(DROPPED, fault=fault))
    assert judged(ERROR, works=lines) == ({DIED: 1}, [])
    elsewhere = tuple(replace(line, backend="b1") for line in lines)
    assert judged(ERROR, works=elsewhere)[1] == [Promise.UNSERVED]
    assert judged(replace(ERROR, status=503), works=lines)[1] == [Promise.UNSERVED]


def test_a_clear_502_is_right_where_the_backend_was_killed() -> None:
    killed = (trouble(Trouble.KILL),)
    assert judged(ERROR, works=(STARTED,), windows=killed) == ({DIED: 1}, [])
    assert judged(replace(ERROR, error=""), works=(STARTED,), windows=killed)[1] == [
        Promise.UNCLEAR
    ]
    nothing = replace(NO_REPLY, endpoint="b0")
    assert judged(nothing, works=(STARTED,), windows=killed)[1] == [Promise.UNCLEAR]


@pytest.mark.parametrize("what", [Trouble.STOP, Trouble.BLACK_HOLE])
def test_a_clear_502_is_right_where_the_backend_was_silent_and_is_back(what: Trouble) -> None:
    assert judged(ERROR, windows=(trouble(what, end=100.4),)) == ({CAME_BACK: 1}, [])
    for other in (
        trouble(what, end=100.6),
        trouble(what, end=100.4, name="b1"),
        trouble(what, begin=98.0, end=99.9),
        trouble(Trouble.BUSY, end=100.4),
    ):
        assert judged(ERROR, windows=(other,))[1] == [Promise.UNSERVED]
    for reply in (replace(ERROR, status=504), replace(ERROR, error=""), NO_REPLY):
        assert judged(reply, windows=(trouble(what, end=100.4),))[1] == [Promise.UNSERVED]


@pytest.mark.parametrize("fault", ["stall", "busy", "unavailable"])
def test_a_fault_that_leaves_plain_requests_alone_excuses_none(fault: str) -> None:
    line = replace(STARTED, fault=fault)
    assert judged(ERROR, works=(line,))[1] == [Promise.UNSERVED]


def test_with_no_backend_up_an_error_is_right_if_it_is_clear() -> None:
    assert judged(NO_BACKEND, windows=ALL_DEAD) == ({OUTAGE: 1}, [])
    backends_own = replace(NO_BACKEND, retry_after=False, error="503: unavailable", endpoint="b0")
    assert judged(backends_own, windows=ALL_DEAD) == ({OUTAGE: 1}, [])
    for unclear in (
        NO_REPLY,
        replace(NO_BACKEND, error=""),
        replace(NO_BACKEND, retry_after=False),
    ):
        assert judged(unclear, windows=ALL_DEAD) == ({}, [Promise.UNCLEAR])


def test_a_backend_is_up_again_only_a_while_after_its_trouble() -> None:
    one = Window("b1", Trouble.KILL, 90.0, 105.0)
    for end, right in ((99.5, True), (98.9, False)):
        windows = (one, Window("b0", Trouble.KILL, 95.0, end))
        counts, promises = judged(NO_BACKEND, windows=windows)
        assert counts == ({OUTAGE: 1} if right else {})
        assert promises == ([] if right else [Promise.UNSERVED])


def test_backends_that_are_up_by_turns_are_up() -> None:
    windows = (
        Window("b0", Trouble.KILL, 90.0, 98.0),
        Window("b1", Trouble.KILL, 100.3, 105.0),
    )
    assert judged(NO_BACKEND, windows=windows)[1] == [Promise.UNSERVED]
    later = (replace(windows[0], end=99.4), windows[1])
    assert judged(NO_BACKEND, windows=later) == ({OUTAGE: 1}, [])


def test_a_prompt_that_completed_on_two_backends_is_found() -> None:
    assert judged(PLAIN, works=(STARTED, FINISHED, ELSEWHERE)) == ({FULL: 1}, [Promise.TWICE])
    assert judged(PLAIN, works=(STARTED, FINISHED, FINISHED))[1] == [Promise.TWICE]
    # a stall spares plain requests, so this one did complete
    assert judged(PLAIN, works=(FINISHED, replace(ELSEWHERE, fault="stall")))[1] == [Promise.TWICE]


@pytest.mark.parametrize(
    "other",
    [DROPPED, replace(FINISHED, status=503), replace(FINISHED, fault="busy"), STARTED],
)
def test_a_prompt_that_one_of_two_backends_did_not_complete_is_all_right(other: Work) -> None:
    assert judged(PLAIN, works=(STARTED, other, ELSEWHERE)) == ({FULL: 1}, [])


@pytest.mark.parametrize("end", [End.CUT, End.RESET, End.MALFORMED])
def test_a_stream_that_its_backend_did_not_cut_is_found(end: End) -> None:
    stream = replace(CUT_STREAM, end=end)
    assert judged(stream, works=(STARTED, FINISHED)) == ({}, [Promise.CUT])
    for other in (
        trouble(Trouble.KILL, name="b1"),
        trouble(Trouble.KILL, begin=101.0),
        trouble(Trouble.RESTART),
        trouble(Trouble.REMOVE),
        trouble(Trouble.BUSY),
    ):
        assert judged(stream, works=(STARTED,), windows=(other,))[1] == [Promise.CUT]


@pytest.mark.parametrize("what", [Trouble.KILL, Trouble.STOP, Trouble.BLACK_HOLE])
def test_a_stream_that_its_backend_cut_is_counted(what: Trouble) -> None:
    assert judged(CUT_STREAM, windows=(trouble(what),)) == ({OWN_CUT: 1}, [])


@pytest.mark.parametrize("fault", ["reset", "truncate", "garbage", "stall"])
def test_a_stream_that_its_backend_broke_off_is_counted(fault: str) -> None:
    assert judged(CUT_STREAM, works=(replace(STARTED, fault=fault),)) == ({OWN_CUT: 1}, [])


@pytest.mark.parametrize("reply", [PLAIN, STREAM])
@pytest.mark.parametrize(
    "changes", [{"text": TEXT[:9]}, {"finished": False}, {"text": "", "finished": False}]
)
def test_a_truncated_reply_that_looks_complete_is_found_whoever_cut_it(
    reply: Reply, changes: dict[str, Any]
) -> None:
    killed = (trouble(Trouble.KILL),)
    for windows in ((), killed):
        assert judged(replace(reply, **changes), windows=windows)[1] == [Promise.LOOKS_COMPLETE]


@pytest.mark.parametrize("reply", [PLAIN, STREAM, CUT_STREAM, replace(CUT_STREAM, end=End.LEFT)])
@pytest.mark.parametrize("changes", [{"text": "Cloud"}, {"request_id": "q"}])
def test_the_reply_to_another_prompt_is_found(reply: Reply, changes: dict[str, Any]) -> None:
    killed = (trouble(Trouble.KILL),)
    assert judged(replace(reply, **changes), windows=killed)[1] == [Promise.MIXED_UP]


def test_an_error_meant_for_another_is_found() -> None:
    assert judged(replace(ERROR, request_id="q"))[1] == [Promise.MIXED_UP]


def test_a_text_that_goes_on_after_its_end_is_found() -> None:
    assert judged(replace(PLAIN, text=TEXT + " and"))[1] == [Promise.MIXED_UP]


def test_a_request_that_never_ends_is_found() -> None:
    stuck = replace(CUT_STREAM, end=End.STUCK)
    assert judged(stuck, windows=(trouble(Trouble.STOP),))[1] == [Promise.STUCK]


def test_a_prompt_without_a_reply_or_with_two_is_found() -> None:
    assert judged(PLAIN, prompts=["p", "q"])[1] == [Promise.LOST_COUNT]
    assert judged(PLAIN, PLAIN)[1] == [Promise.LOST_COUNT]
    assert judged(PLAIN, prompts=[])[1] == []
