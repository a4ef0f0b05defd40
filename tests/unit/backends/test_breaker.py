from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.backends.breaker import Breaker, eligible
from tests.unit.builders import make_backend

NOW = 1000.0
CAUSE = "connect_error"


def ejected(now: float = NOW) -> Breaker:
    """A breaker that has just ejected its backend for the first time."""
    breaker = Breaker()
    fail(breaker, 5, now)
    return breaker


def fail(breaker: Breaker, times: int, now: float) -> list[bool]:
    return [breaker.failed(now, now, CAUSE) for _ in range(times)]


def succeed(breaker: Breaker, times: int, now: float) -> list[bool]:
    return [breaker.succeeded(now, now) for _ in range(times)]


def test_a_new_backend_takes_requests() -> None:
    breaker = Breaker()
    assert breaker.closed
    assert breaker.admits(NOW)
    assert (breaker.reason, breaker.since, breaker.until) == ("", 0.0, 0.0)


def test_the_fifth_failure_in_a_row_ejects_for_five_seconds() -> None:
    breaker = Breaker()
    assert fail(breaker, 4, NOW) == [False] * 4
    assert breaker.until == 0.0
    assert fail(breaker, 1, NOW + 1) == [True]
    assert not breaker.closed
    assert (breaker.since, breaker.until) == (NOW + 1, NOW + 6)
    assert breaker.reason == "5 failures in a row (the last: connect_error)"
    assert not breaker.admits(NOW + 5.9)
    assert breaker.admits(NOW + 6)


def test_a_success_ends_the_row() -> None:
    breaker = Breaker()
    fail(breaker, 4, NOW)
    succeed(breaker, 1, NOW)
    assert fail(breaker, 4, NOW) == [False] * 4


def test_failures_in_a_row_count_however_far_apart() -> None:
    breaker = Breaker()
    assert [breaker.failed(NOW + 100 * n, NOW + 100 * n, CAUSE) for n in range(5)][-1]


def test_half_of_ten_requests_ejects() -> None:
    breaker = Breaker()
    for second in range(4):
        succeed(breaker, 1, NOW + second)
        assert fail(breaker, 1, NOW + second) == [False]
    succeed(breaker, 1, NOW + 4)
    assert fail(breaker, 1, NOW + 4) == [True]
    assert breaker.reason == "5 of 10 requests failed in 10 s (the last: connect_error)"


def test_less_than_half_does_not() -> None:
    breaker = Breaker()
    succeed(breaker, 2, NOW)
    for second in range(8):
        succeed(breaker, 1, NOW + second)
        assert fail(breaker, 1, NOW + second) == [False]
    assert breaker.closed


def test_half_of_less_than_ten_does_not() -> None:
    breaker = Breaker()
    for _ in range(4):
        assert fail(breaker, 1, NOW) == [False]
        succeed(breaker, 1, NOW)
    assert fail(breaker, 1, NOW) == [False]
    assert breaker.closed


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = Breaker()
    for _ in range(4):
        fail(breaker, 1, NOW)
        succeed(breaker, 1, NOW)
    assert fail(breaker, 1, NOW + 12) == [False]
    assert succeed(breaker, 1, NOW + 12) == [False]
    assert fail(breaker, 4, NOW + 12) == [False] * 4


def test_many_successes_of_long_ago_do_not_outweigh_failures_of_now() -> None:
    breaker = Breaker()
    succeed(breaker, 1000, NOW)
    for _ in range(5):
        succeed(breaker, 1, NOW + 20)
        out = fail(breaker, 1, NOW + 20)
    assert out == [True]


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=80))
def test_it_ejects_when_a_plain_count_says_so(events: list[tuple[bool, float]]) -> None:
    """Compared with a list of everything, to the length of a bucket either way."""
    breaker, now, row = Breaker(), NOW, 0
    seen: list[tuple[float, bool]] = []
    for good, pause in events:
        now += pause
        seen.append((now, good))
        if good:
            row = 0
            assert not breaker.succeeded(now, now)
            continue
        row += 1

        def share(span: float, now: float = now) -> bool:
            recent = [good for when, good in seen if when > now - span]
            return len(recent) >= 10 and 2 * recent.count(False) >= len(recent)

        out = breaker.failed(now, now, CAUSE)
        if row >= 5 or all(share(span / 10) for span in range(100, 131)):
            assert out
        if row < 5 and not any(share(span / 10) for span in range(80, 131)):
            assert not out
        if out:
            return


def test_when_the_time_is_over_one_request_is_tried_every_five_seconds() -> None:
    breaker = ejected()
    now = NOW + 5
    assert breaker.admits(now)
    breaker.tried(now)
    assert not breaker.admits(now + 4.9)
    assert breaker.admits(now + 5)


def test_a_trial_that_goes_well_brings_it_back() -> None:
    breaker = ejected()
    breaker.tried(NOW + 5)
    assert breaker.succeeded(NOW + 6, began=NOW + 5)
    assert breaker.closed
    assert breaker.admits(NOW + 6)
    assert (breaker.reason, breaker.since, breaker.failures) == ("", 0.0, 0)
    assert fail(breaker, 4, NOW + 6) == [False] * 4


def test_each_ejection_after_a_failed_trial_is_twice_as_long_up_to_a_minute() -> None:
    breaker, now = ejected(), NOW
    lengths = [breaker.until - now]
    for _ in range(5):
        now = breaker.until
        breaker.tried(now)
        assert fail(breaker, 1, now) == [True]
        lengths.append(breaker.until - now)
    assert lengths == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert breaker.since == NOW
    assert breaker.reason == "tried again and failed (connect_error)"
    assert breaker.ejections == 6


def test_soon_after_it_came_back_the_next_ejection_is_longer_too() -> None:
    breaker = ejected()
    breaker.succeeded(NOW + 5, began=NOW + 5)
    fail(breaker, 5, NOW + 64)
    assert breaker.until - (NOW + 64) == 10.0
    assert breaker.since == NOW + 64


def test_after_a_minute_of_good_conduct_the_next_ejection_is_short_again() -> None:
    breaker = ejected()
    breaker.succeeded(NOW + 5, began=NOW + 5)
    fail(breaker, 5, NOW + 65)
    assert breaker.until - (NOW + 65) == 5.0
    assert breaker.ejections == 1


def test_what_was_sent_before_the_ejection_changes_nothing() -> None:
    breaker = ejected()
    until = breaker.until
    assert not breaker.succeeded(NOW + 6, began=NOW - 1)
    assert not breaker.closed
    for _ in range(20):
        assert not breaker.failed(NOW + 6, NOW - 1, CAUSE)
    assert breaker.until == until
    assert breaker.succeeded(NOW + 7, began=NOW + 6)
    for _ in range(20):
        assert not breaker.failed(NOW + 8, NOW - 1, CAUSE)
    assert breaker.closed


def test_a_failure_of_an_ejected_backend_that_was_tried_nonetheless_does_not_prolong_it() -> None:
    breaker = ejected()
    assert not breaker.failed(NOW + 2, NOW + 1, CAUSE)
    assert breaker.until == NOW + 5


def test_a_success_of_an_ejected_backend_that_was_tried_nonetheless_brings_it_back() -> None:
    breaker = ejected()
    assert breaker.succeeded(NOW + 2, began=NOW + 1)
    assert breaker.admits(NOW + 2)


def test_ejections_without_number_do_not_overflow() -> None:
    breaker = ejected()
    breaker.ejections = 10**6
    breaker.failed(NOW + 5, NOW + 5, CAUSE)
    assert breaker.until == NOW + 65


def test_it_shows_its_state() -> None:
    assert repr(ejected()) == (
        "<Breaker failures=5 until=1005.000 '5 failures in a row (the last: connect_error)'>"
    )


def test_with_nobody_ejected_all_are_eligible_at_no_cost() -> None:
    backends = [make_backend("a"), make_backend("b")]
    assert eligible(backends, NOW) is backends


@pytest.mark.parametrize(
    ("out", "left"),
    [
        ("", "abcd"),
        ("a", "bcd"),
        ("ab", "cd"),
        ("abc", "ad"),  # a is back first
        ("abcd", "ab"),
    ],
)
def test_at_most_half_are_left_out_and_those_soonest_back_are_tried(out: str, left: str) -> None:
    backends = [make_backend(name) for name in "abcd"]
    for backend in backends:
        if backend.name in out:
            fail(backend.breaker, 5, NOW + ord(backend.name) / 1000)
    assert [backend.name for backend in eligible(backends, NOW + 1)] == list(left)


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 1), (3, 2), (5, 3)])
def test_the_smaller_half_of_an_odd_number_may_be_out(count: int, left: int) -> None:
    backends = [make_backend(f"b{number}") for number in range(count)]
    for backend in backends:
        fail(backend.breaker, 5, NOW)
    assert len(eligible(backends, NOW + 1)) == left


def test_a_half_open_backend_is_eligible_until_it_is_tried() -> None:
    backends = [make_backend("a"), make_backend("b")]
    fail(backends[0].breaker, 5, NOW)
    assert list(eligible(backends, NOW + 4)) == [backends[1]]
    assert eligible(backends, NOW + 5) is backends
    backends[0].breaker.tried(NOW + 5)
    assert list(eligible(backends, NOW + 6)) == [backends[1]]
