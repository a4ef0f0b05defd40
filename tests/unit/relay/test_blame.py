from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ollad.relay.blame import Blame, blame
from ollad.relay.exchange import Fault, Outcome, ReplyHead

if TYPE_CHECKING:
    from ollad.relay.downstream import Downstream

SENT_ON = cast("Downstream", object())


def replied(status: int) -> Outcome:
    return Outcome("sgl-a", head=ReplyHead(status, b"", (), "application/json", 0))


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 405, 408, 413, 422, 499])
def test_whatever_a_backend_thinks_of_a_request_it_works(status: int) -> None:
    assert blame(replied(status)) is Blame.WELL


@pytest.mark.parametrize("status", [429, 503])
def test_a_backend_that_has_enough_is_not_broken(status: int) -> None:
    assert blame(replied(status)) is Blame.OVERLOAD


@pytest.mark.parametrize("status", [500, 501, 502, 504, 599])
def test_a_backend_that_cannot_do_its_work_has_failed(status: int) -> None:
    assert blame(replied(status)) is Blame.FAILURE


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.CONNECT, Blame.FAILURE),
        (Fault.CONNECT_TIMEOUT, Blame.FAILURE),
        (Fault.RESET, Blame.FAILURE),
        (Fault.TRUNCATED, Blame.FAILURE),
        (Fault.FIRST_BYTE_TIMEOUT, Blame.FAILURE),
        (Fault.IDLE_TIMEOUT, Blame.FAILURE),
        (Fault.TOTAL_TIMEOUT, Blame.FAILURE),
        (Fault.REFUSED, Blame.OVERLOAD),
        (Fault.STALE, Blame.NOTHING),
    ],
)
def test_every_fault_is_somebodys(fault: Fault, expected: Blame) -> None:
    assert blame(Outcome("sgl-a", fault=fault)) is expected


def test_a_stream_that_dies_counts_although_its_head_was_fine() -> None:
    outcome = Outcome(
        "sgl-a",
        head=replied(200).head,
        response=SENT_ON,
        fault=Fault.TRUNCATED,
        first_byte=0.1,
    )
    assert blame(outcome) is Blame.FAILURE


def test_a_reply_that_was_coming_when_the_time_was_up_is_nobodys_fault() -> None:
    outcome = Outcome("sgl-a", fault=Fault.TOTAL_TIMEOUT, first_byte=0.1)
    assert blame(outcome) is Blame.NOTHING
