from __future__ import annotations

from typing import Any

import pytest

from ollad.auth.meter import Meter
from ollad.config.schema import ApiKey
from ollad.errors import TooManyRequestsError


def meter(**limits: Any) -> Meter:
    return Meter(ApiKey(name="alice", **limits), 0.0)


def refused(one: Meter, now: float = 0.0) -> TooManyRequestsError:
    with pytest.raises(TooManyRequestsError) as caught:
        one.lease("alice", now)
    assert caught.value.status == 429
    return caught.value


def test_without_limits_everything_gets_in() -> None:
    free = meter()
    leases = [free.lease("alice", 0.0) for _ in range(1000)]
    assert (free.active, free.admitted, free.refused) == (1000, 1000, 0)
    for lease in leases:
        lease.release()
    assert free.active == 0


def test_a_request_over_the_rate_is_told_when_to_come_back() -> None:
    slow = meter(requests_per_minute=2)
    for _ in range(2):
        slow.lease("alice", 0.0).release()

    error = refused(slow)

    assert error.headers["Retry-After"] == "30"
    assert "'alice'" in error.message
    assert "requests_per_minute" in error.message
    slow.lease("alice", 30.0)


def test_retry_after_is_never_too_early() -> None:
    slow = meter(requests_per_minute=7)
    for _ in range(7):
        slow.lease("alice", 0.0)

    seconds = int(refused(slow, 0.1).headers["Retry-After"])

    assert seconds == 9
    slow.lease("alice", 0.1 + seconds)


def test_a_place_among_those_under_way_is_given_back_once() -> None:
    narrow = meter(max_concurrent=2)
    first, _second = narrow.lease("alice", 0.0), narrow.lease("alice", 0.0)
    error = refused(narrow)
    assert error.headers["Retry-After"] == "1"
    assert "max_concurrent" in error.message

    first.release()
    first.release()

    assert narrow.active == 1
    narrow.lease("alice", 0.0)
    refused(narrow)


def test_what_is_turned_away_costs_nothing() -> None:
    narrow = meter(max_concurrent=1, requests_per_minute=2, tokens_per_minute=10)
    lease = narrow.lease("alice", 0.0)
    for _ in range(5):
        refused(narrow)
    lease.release()
    lease.charge(100, 0, 0.0)
    for _ in range(5):
        refused(narrow)
    assert (narrow.active, narrow.admitted, narrow.refused) == (0, 1, 10)

    narrow.lease("alice", 546.0)

    assert narrow.active == 1


def test_tokens_are_paid_for_when_they_are_known() -> None:
    poor = meter(tokens_per_minute=100)
    lease = poor.lease("alice", 0.0)
    lease.charge(100, 50, 0.0)
    lease.charge(None, None, 0.0)

    error = refused(poor)

    assert "tokens_per_minute" in error.message
    assert error.headers["Retry-After"] == "31"
    assert (poor.prompt_tokens, poor.completion_tokens) == (100, 50)
    poor.lease("alice", 31.0)


def test_the_items_of_a_batch_are_let_in_together_or_not_at_all() -> None:
    slow = meter(requests_per_minute=10)
    slow.lease("alice", 0.0).release()
    batch = slow.lease("alice", 0.0)
    with pytest.raises(TooManyRequestsError) as caught:
        batch.more(9, 0.0)
    assert caught.value.headers["Retry-After"] == "6"
    assert slow.admitted == 2

    batch.more(8, 0.0)

    refused(slow)
    assert (slow.active, slow.admitted) == (1, 10)


def test_a_batch_of_more_than_a_minutes_worth_is_let_in_by_a_full_allowance() -> None:
    slow = meter(requests_per_minute=10)
    slow.lease("alice", 0.0).more(24, 0.0)

    assert refused(slow).headers["Retry-After"] == "96"
    slow.lease("alice", 150.0).more(24, 150.0)


def test_new_limits_hold_for_what_was_used_already() -> None:
    one = meter(requests_per_minute=5)
    lease = one.lease("alice", 0.0)

    one.reconfigure(ApiKey(name="alice", requests_per_minute=1, max_concurrent=1), 0.0)

    assert "max_concurrent" in refused(one).message
    lease.release()
    assert "requests_per_minute" in refused(one).message
    assert one.active == 0
