from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.auth.bucket import Bucket


def test_a_minutes_worth_can_be_taken_at_once_and_no_more() -> None:
    bucket = Bucket(3, now=100.0)

    assert [bucket.claim(1, 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 20.0]
    assert bucket.claim(1, 119.0) == pytest.approx(1.0)
    assert bucket.claim(1, 120.0) == 0.0


def test_it_never_holds_more_than_a_minutes_worth() -> None:
    bucket = Bucket(2, now=0.0)

    assert [bucket.claim(1, 9999.0) for _ in range(3)] == [0.0, 0.0, 30.0]


def test_a_debt_is_paid_back_before_anything_is_to_be_had() -> None:
    bucket = Bucket(60, now=0.0)
    bucket.take(180, 0.0)

    assert bucket.wait(1, 0.0) == pytest.approx(121.0)
    assert bucket.wait(1, 121.0) == 0.0


def test_more_than_a_minutes_worth_needs_a_full_bucket() -> None:
    bucket = Bucket(10, now=0.0)

    assert bucket.claim(25, 0.0) == 0.0
    assert bucket.wait(1, 0.0) == pytest.approx(96.0)
    assert bucket.wait(25, 0.0) == pytest.approx(150.0)
    assert bucket.claim(25, 150.0) == 0.0


def test_no_limit_is_none_and_leaves_no_debt() -> None:
    bucket = Bucket(0, now=0.0)
    assert bucket.claim(10**9, 0.0) == 0.0
    bucket.take(10**9, 0.0)

    bucket.resize(5, 1.0)

    assert bucket.claim(5, 1.0) == 0.0
    assert bucket.wait(1, 1.0) == pytest.approx(12.0)


def test_another_rate_keeps_what_was_used() -> None:
    bucket = Bucket(10, now=0.0)
    bucket.take(8, 0.0)

    bucket.resize(20, 0.0)

    assert bucket.wait(12, 0.0) == 0.0
    assert bucket.wait(13, 0.0) == pytest.approx(3.0)
    bucket.resize(0, 0.0)
    assert bucket.wait(10**6, 0.0) == 0.0


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 90), st.integers(1, 50)), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_and_one_bucket_get_through(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket(rate, now=0.0), 0.0, 0
    for pause, amount in steps:
        now += pause
        if amount <= rate and not bucket.claim(amount, now):
            taken += amount
        assert taken <= rate + now * rate / 60 + 1e-3


@given(st.integers(1, 10**6), st.integers(0, 10**7), st.floats(0, 10**6))
def test_who_waits_as_long_as_told_is_served(rate: int, debt: int, now: float) -> None:
    bucket = Bucket(rate, now=now)
    bucket.take(debt, now)

    assert bucket.claim(1, now + bucket.wait(1, now)) == 0.0
