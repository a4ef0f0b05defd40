from __future__ import annotations

import pytest

from ollad.sglang.counters import HitRateWindow, MonotonicCount, PromptTokens


def looks(*marks: tuple[float, float, float]) -> HitRateWindow:
    window = HitRateWindow()
    for now, cached, total in marks:
        window = window.advanced(now, PromptTokens(cached, total))
    return window


def test_there_is_no_hit_rate_before_any_traffic() -> None:
    assert HitRateWindow().rate is None
    assert looks((0, 0, 0), (5, 0, 0)).rate is None


def test_the_first_look_gives_the_rate_since_the_start_of_the_server() -> None:
    assert looks((100, 30, 40)).rate == pytest.approx(0.75)


def test_the_rate_is_that_of_the_last_minute() -> None:
    window = looks((0, 0, 100), *((at, 0.9 * (at * 10), 100 + at * 10) for at in range(5, 125, 5)))
    assert window.rate == pytest.approx(0.9)


def test_an_idle_server_keeps_its_last_rate() -> None:
    busy = looks((0, 0, 10), (5, 8, 20))
    assert busy.advanced(500, PromptTokens(8, 20)).rate == busy.rate
    assert busy.advanced(500, None).rate == busy.rate


def test_after_a_pause_only_new_traffic_counts() -> None:
    assert looks((0, 0, 1000), (500, 90, 1100)).rate == pytest.approx(0.9)


def test_a_window_does_not_grow_without_bound() -> None:
    window = looks(*((float(at), float(at), 2.0 * at + 2) for at in range(1000)))
    assert len(window.marks) <= 62


def test_a_rate_is_never_outside_its_bounds() -> None:
    assert looks((0, 90, 40)).rate == 1.0


def test_a_count_is_unknown_before_its_first_figure() -> None:
    assert MonotonicCount().advanced(None).value is None
    assert MonotonicCount().restarted().value is None


def test_a_count_goes_on_after_a_restart() -> None:
    count = MonotonicCount().advanced(70).restarted()
    assert count.value == 70
    assert count.advanced(None).value == 70
    assert count.advanced(5).value == 75
    assert count.advanced(5).advanced(9).value == 79


def test_a_supposed_restart_that_was_none_counts_nothing_twice() -> None:
    assert MonotonicCount().advanced(70).restarted().advanced(72).value == 72


def test_a_dip_without_a_restart_changes_nothing() -> None:
    assert MonotonicCount().advanced(70).advanced(68).value == 70
    assert MonotonicCount().advanced(70).advanced(68).advanced(71).value == 71
