from __future__ import annotations

import json

import pytest

from ollad.handlers.events import Rhythm, event_frame, last_event_id

UP = (False, (("a", "healthy"),))
DOWN = (False, (("a", "down"),))


def test_an_event_is_due_once_a_second() -> None:
    rhythm = Rhythm()
    assert rhythm.due(10.0, UP)
    assert not rhythm.due(10.9, UP)
    assert rhythm.due(11.0, UP)


def test_a_change_of_state_is_told_at_once_and_only_once() -> None:
    rhythm = Rhythm()
    assert rhythm.due(10.0, UP)
    assert rhythm.due(10.2, DOWN)
    assert not rhythm.due(10.4, DOWN)
    assert not rhythm.due(11.0, DOWN)
    assert rhythm.due(11.2, DOWN)


def test_pauses_are_short_and_end_when_an_event_is_due() -> None:
    rhythm = Rhythm()
    rhythm.due(10.0, UP)
    assert rhythm.pause(10.0) == pytest.approx(0.2)
    assert rhythm.pause(10.95) == pytest.approx(0.05)
    assert rhythm.pause(12.0) > 0


def test_an_event_is_one_line_of_json_with_an_id_and_a_name() -> None:
    lines = event_frame(7, {"reason": "two\nlines"}).decode().split("\n")
    assert lines[:2] == ["id: 7", "event: status"]
    assert json.loads(lines[2].removeprefix("data: ")) == {"reason": "two\nlines"}
    assert lines[3:] == ["", ""]


@pytest.mark.parametrize(
    ("header", "number"),
    [("", 0), ("12", 12), ("-1", 0), ("x", 0), ("\u0661", 0), ("9" * 5000, 0), (str(2**53), 0)],
)
def test_an_id_that_is_none_of_ours_is_ignored(header: str, number: int) -> None:
    assert last_event_id(header) == number
