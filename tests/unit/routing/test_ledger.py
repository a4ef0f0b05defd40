from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.ledger import Ledger

if TYPE_CHECKING:
    from random import Random

    from ollad.routing.ledger import Due

NOW = 1000.0


def begin(ledger: Ledger, tokens: float, now: float = NOW, *, silent: bool = False) -> Due:
    return ledger.begin(tokens, now, silent=silent)


def test_what_was_sent_is_due_until_the_first_byte() -> None:
    ledger = Ledger()
    one, _ = begin(ledger, 300), begin(ledger, 500)
    assert (ledger.pending(NOW), ledger.waiting) == (800, 2)
    ledger.prefilled(one, NOW + 1)
    assert (ledger.pending(NOW + 1), ledger.waiting) == (500, 1)


def test_what_ended_without_a_first_byte_is_due_no_longer() -> None:
    ledger = Ledger()
    due = begin(ledger, 300)
    ledger.end(due, NOW + 1, answered=False)
    assert (ledger.pending(NOW + 1), ledger.waiting) == (0, 0)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_everything_is_released_once(sizes: list[float], random: Random) -> None:
    ledger = Ledger()
    dues = [begin(ledger, size) for size in sizes]
    random.shuffle(dues)
    for due in dues:
        ledger.prefilled(due, NOW + 1)
        ledger.end(due, NOW + 2, answered=True)
        ledger.prefilled(due, NOW + 3)
        assert ledger.pending(NOW + 3) >= 0
    assert (ledger.pending(NOW + 3), ledger.waiting) == (0, 0)


def test_a_silent_request_is_released_when_its_prefill_should_be_over() -> None:
    ledger = Ledger()
    begin(ledger, 2 * ledger.rate, silent=True)
    behind = begin(ledger, ledger.rate, silent=True)
    assert behind.over == NOW + 3
    assert ledger.waiting == 2
    assert ledger.pending(NOW + 1.9) == 3 * ledger.rate
    assert ledger.pending(NOW + 2) == ledger.rate
    assert ledger.pending(NOW + 3) == 0


def test_a_silent_request_waits_for_streams_that_are_before_it() -> None:
    ledger = Ledger()
    begin(ledger, ledger.rate)
    assert begin(ledger, ledger.rate, silent=True).over == NOW + 2


def test_a_silent_request_that_ended_early_does_not_hide_the_next() -> None:
    ledger = Ledger()
    first = begin(ledger, 10 * ledger.rate, silent=True)
    begin(ledger, ledger.rate, silent=True)
    ledger.end(first, NOW + 1, answered=False)
    assert ledger.pending(NOW + 10) == ledger.rate
    assert ledger.pending(NOW + 11) == 0


def test_the_rate_is_learnt_from_first_bytes() -> None:
    ledger = Ledger()
    now = NOW
    for _ in range(100):
        ahead = begin(ledger, 3000, now)
        due = begin(ledger, 3000, now)
        ledger.prefilled(ahead, now + 1.5)
        ledger.prefilled(due, now + 3)
        now += 10
    assert ledger.rate == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize(("tokens", "seconds"), [(100, 5.0), (5000, 0.0)])
def test_waits_that_say_nothing_teach_nothing(tokens: float, seconds: float) -> None:
    ledger = Ledger()
    rate = ledger.rate
    ledger.prefilled(begin(ledger, tokens), NOW + seconds)
    assert ledger.rate == rate


def test_a_silent_reply_sooner_than_expected_shows_a_faster_backend() -> None:
    ledger = Ledger()
    rate = ledger.rate
    ledger.end(begin(ledger, 4 * rate, silent=True), NOW + 1, answered=True)
    assert ledger.rate > rate


def test_a_failure_shows_no_rate() -> None:
    ledger = Ledger()
    rate = ledger.rate
    ledger.end(begin(ledger, 4 * rate, silent=True), NOW + 0.01, answered=False)
    assert ledger.rate == rate


def test_a_queue_that_others_filled_counts_and_shrinks_as_it_is_worked_off() -> None:
    ledger = Ledger()
    begin(ledger, 1000)
    ledger.correct(3 * ledger.rate, NOW)
    assert ledger.pending(NOW) == 3 * ledger.rate
    assert ledger.pending(NOW + 2) == ledger.rate
    assert ledger.pending(NOW + 3) == 1000


def test_a_queue_known_here_counts_once() -> None:
    ledger = Ledger()
    begin(ledger, 1000)
    ledger.correct(900, NOW)
    assert ledger.pending(NOW) == 1000
