from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ollad.relay.exchange import Fault, Outcome, ReplyHead
from ollad.relay.retry import OVERLOADED_STATUSES, RETRIED_STATUSES, retry_reason

if TYPE_CHECKING:
    from ollad.relay.downstream import Downstream

SENT_ON = cast("Downstream", object())


def head(status: int) -> ReplyHead:
    return ReplyHead(status, b"", (), "application/json", 0)


def outcome(
    *, status: int | None = None, fault: Fault | None = None, committed: bool = False
) -> Outcome:
    return Outcome(
        "sgl-a",
        head=None if status is None else head(status),
        response=SENT_ON if committed else None,
        fault=fault,
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.CONNECT, "connect_error"),
        (Fault.CONNECT_TIMEOUT, "connect_timeout"),
        (Fault.STALE, "stale"),
        (Fault.UNSENT, "unsent"),
        (Fault.REFUSED, "overloaded"),
        (Fault.DIED, "died"),
        (Fault.RESET, None),
        (Fault.TRUNCATED, None),
        (Fault.FIRST_BYTE_TIMEOUT, None),
        (Fault.IDLE_TIMEOUT, None),
        (Fault.TOTAL_TIMEOUT, None),
    ],
)
def test_a_fault_is_retried_when_the_prompt_cannot_have_run(
    fault: Fault, reason: str | None
) -> None:
    assert retry_reason(outcome(fault=fault)) == reason


def test_every_fault_has_its_row() -> None:
    rows = test_a_fault_is_retried_when_the_prompt_cannot_have_run.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {fault for fault, _ in rows} == set(Fault)


def test_a_status_is_retried_when_it_says_not_served() -> None:
    retried = {status for status in range(200, 600) if retry_reason(outcome(status=status))}
    assert retried == {429, 502, 503, 504}
    assert retry_reason(outcome(status=429)) == "status_429"


@pytest.mark.parametrize("fault", [None, *Fault])
@pytest.mark.parametrize("status", [200, 429, 503])
def test_nothing_is_retried_once_bytes_reached_the_client(fault: Fault | None, status: int) -> None:
    assert retry_reason(outcome(status=status, fault=fault, committed=True)) is None


def test_a_fault_counts_for_more_than_the_status_before_it() -> None:
    assert retry_reason(outcome(status=503, fault=Fault.TOTAL_TIMEOUT)) is None
    assert retry_reason(outcome(status=200, fault=Fault.REFUSED)) == "overloaded"


def test_whoever_is_overloaded_is_retried_elsewhere() -> None:
    assert OVERLOADED_STATUSES < RETRIED_STATUSES
