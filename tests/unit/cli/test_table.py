from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollad.cli.table import age, clip, display_width, render

ANSI = re.compile(r"\x1b\[[0-9;]*m")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
LOAD_KEYS = ("running", "waiting", "token_usage", "radix_cache_hit_rate")
ENTRY_KEYS = ("name", "state", "weight", "overloaded", "in_flight", "models", "since", "reason")
EJECTIONS = (
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("reason", "since", "until", "on_trial"), JSON)
    )
    | JSON
)
LOADS = st.fixed_dictionaries({}, optional=dict.fromkeys(LOAD_KEYS, JSON)) | JSON
ENTRIES = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(ENTRY_KEYS, JSON), "load": LOADS, "ejected": EJECTIONS}
)
STATUS_KEYS = ("time", "version", "uptime_seconds", "draining", "requests_under_way")
STATUSES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(STATUS_KEYS, JSON),
        "endpoints": st.lists(ENTRIES | JSON, max_size=6) | JSON,
    },
)


def entry(name: str = "gpu-0", **changes: Any) -> dict[str, Any]:
    load = {"running": 3, "waiting": 1, "token_usage": 0.62, "radix_cache_hit_rate": 0.35}
    return {
        "name": name,
        "state": "healthy",
        "reason": "answers its probes",
        "since": "2026-11-22T10:00:00.000Z",
        "weight": 0.75,
        "overloaded": False,
        "ejected": None,
        "in_flight": 4,
        "models": ["meta-llama/Llama-3.1-8B"],
        "load": load,
        **changes,
    }


def status(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-22T13:12:00.000Z",
        "version": "1.2.3",
        "uptime_seconds": 11520.5,
        "draining": False,
        "requests_under_way": 5,
        "endpoints": list(entries),
        **changes,
    }


@given(STATUSES, st.integers(1, 200), st.integers(1, 50), st.booleans(), st.none() | st.text())
@example(status(entry("模型" * 20), entry(load=None)), 17, 3, True, "lost")
def test_whatever_the_status_holds_the_table_fits_and_cannot_steer_the_terminal(
    document: Any, width: int, height: int, colour: bool, note: str | None
) -> None:
    lines = render(document, width, height, colour=colour, note=note)
    assert 1 <= len(lines) <= height
    for line in lines:
        plain = ANSI.sub("", line)
        assert plain.isprintable()
        assert display_width(plain) <= width
        assert colour or plain == line


def test_a_wide_terminal_shows_everything() -> None:
    sick = entry(
        "gpu-1",
        state="down",
        reason="connection refused",
        since="2026-11-22T13:11:30.000Z",
        weight=0.0,
        in_flight=0,
        models=[],
        load=dict.fromkeys(LOAD_KEYS),
    )
    assert render(status(entry(), sick), 200) == [
        "ollad 1.2.3, up 3h12m, 1/2 endpoints take requests, 5 requests under way",
        "NAME   STATE    WEIGHT  FLIGHT  RUN  WAIT   KV  HIT  MODELS                   SINCE",
        (
            "gpu-0  healthy    0.75       4    3     1  62%  35%  meta-llama/Llama-3.1-8B  "
            "3h12m answers its probes"
        ),
        (
            "gpu-1  down       0.00       0    -     -    -    -  -                        "
            "30s connection refused"
        ),
    ]


def test_a_narrow_terminal_keeps_name_and_state_longest() -> None:
    heading, row = render(status(entry("gpu-0")), 15)[1:]
    assert (heading, row) == ("NAME   STATE", "gpu-0  healthy")


def test_less_room_shortens_models_before_it_drops_figures() -> None:
    heading, row = render(status(entry()), 90)[1:]
    assert heading.split()[-2:] == ["MODELS", "SINCE"]
    assert "meta-llama/Llama-3.1-8B" not in row
    assert "…" in row


def test_a_note_about_the_feed_is_in_the_second_line() -> None:
    lines = render(status(entry()), 80, note="out of date: connection refused")
    assert lines[1] == "out of date: connection refused"


def test_a_draining_daemon_is_said_to_be() -> None:
    assert render(status(draining=True), 80)[0].startswith("ollad 1.2.3, draining, ")


def test_an_overloaded_backend_is_shown_as_such() -> None:
    assert "overloaded" in render(status(entry(overloaded=True)), 120)[2]


def ejection(*, on_trial: bool = False) -> dict[str, Any]:
    return {
        "reason": "5 failures in a row (the last: reset)",
        "since": "2026-11-22T13:11:50.000Z",
        "until": "2026-11-22T13:11:58.000Z" if on_trial else "2026-11-22T13:12:07.000Z",
        "on_trial": on_trial,
    }


def test_an_ejected_backend_says_why_since_when_and_until_when() -> None:
    lines = render(status(entry(ejected=ejection(), overloaded=True)), 200)
    assert "0/1 endpoints take requests" in lines[0]
    assert lines[2].startswith("gpu-0  ejected ")
    assert lines[2].endswith("10s 5 failures in a row (the last: reset), for 7s more")


def test_a_backend_on_trial_is_shown_as_such() -> None:
    row = render(status(entry(ejected=ejection(on_trial=True))), 200)[2]
    assert row.startswith("gpu-0  on trial ")
    assert row.endswith("10s 5 failures in a row (the last: reset)")


@pytest.mark.parametrize("state", ["down", "draining"])
def test_what_takes_a_backend_out_altogether_says_more_than_an_ejection(state: str) -> None:
    row = render(status(entry(state=state, reason="told so", ejected=ejection())), 200)[2]
    assert row.startswith(f"gpu-0  {state} ")
    assert row.endswith("3h12m told so")


def test_where_rows_do_not_fit_the_sick_ones_are_shown() -> None:
    entries = [entry(f"gpu-{number}") for number in range(9)]
    entries[7]["state"] = "down"
    lines = render(status(*entries), 120, 5)
    assert lines[2].startswith("gpu-7  down")
    assert lines[-1] == "and 7 more"


def test_only_the_state_of_a_row_is_coloured() -> None:
    row = render(status(entry()), 120, colour=True)[2]
    assert row.startswith("gpu-0  \x1b[32mhealthy\x1b[0m  ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (11520, "3h12m"), (356400, "4d3h")],
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_clipped_text_says_that_something_is_missing() -> None:
    assert clip("connection refused", 8) == "connect…"
    assert clip("模型模型", 4) == "模…"
