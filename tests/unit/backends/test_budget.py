from __future__ import annotations

import pytest

from ollad.backends.budget import RetryBudget

NOW = 1000.0
FIFTH = 0.2


def spend_all(budget: RetryBudget, now: float, fraction: float = FIFTH) -> int:
    """How many retries there are at ``now``."""
    count = 0
    while not budget.empty(now, fraction):
        budget.spend(now, fraction)
        count += 1
    return count


def test_the_first_bad_moment_finds_ten_seconds_of_the_floor() -> None:
    budget = RetryBudget(NOW)
    assert spend_all(budget, NOW) == 100
    assert spend_all(budget, NOW + 0.9) == 0


def test_with_no_traffic_ten_a_second_are_left() -> None:
    budget = RetryBudget(NOW)
    spend_all(budget, NOW)
    assert spend_all(budget, NOW + 1) == 10
    assert spend_all(budget, NOW + 3) == 20


def test_with_much_traffic_a_fraction_of_it_is_left() -> None:
    budget = RetryBudget(NOW)
    spend_all(budget, NOW)
    budget.requests += 1000
    assert spend_all(budget, NOW + 2) == 200
    assert spend_all(budget, NOW + 3) == 10


def test_a_fraction_below_the_floor_gives_the_floor() -> None:
    budget = RetryBudget(NOW)
    spend_all(budget, NOW, 0.0)
    budget.requests += 1000
    assert spend_all(budget, NOW + 1, 0.0) == 10


def test_a_quiet_hour_is_not_saved_up() -> None:
    budget = RetryBudget(NOW)
    spend_all(budget, NOW)
    assert spend_all(budget, NOW + 3600) == 100


def test_what_is_owed_is_paid_back_first() -> None:
    budget = RetryBudget(NOW)
    for _ in range(115):
        budget.spend(NOW, FIFTH)
    assert budget.empty(NOW + 1, FIFTH)
    assert spend_all(budget, NOW + 2) == 5


def test_a_debt_is_bounded() -> None:
    budget = RetryBudget(NOW)
    for _ in range(10_000):
        budget.spend(NOW, FIFTH)
    assert budget.empty(NOW + 10, FIFTH)
    assert spend_all(budget, NOW + 11) == 10


@pytest.mark.parametrize("rate", [1, 40, 500])
def test_over_a_minute_of_trouble_retries_keep_to_the_fraction_or_the_floor(rate: int) -> None:
    """Every request would be sent again."""
    budget, retries = RetryBudget(NOW), 0
    for tick in range(60 * rate):
        now = NOW + tick / rate
        budget.requests += 1
        if not budget.empty(now, FIFTH):
            budget.spend(now, FIFTH)
            retries += 1
    allowed = max(10.0, FIFTH * rate) * 60 + 100
    assert retries <= allowed
    assert retries >= min(60 * rate, 0.9 * (allowed - 100))
