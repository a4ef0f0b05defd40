from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ollad.relay.exchange import Fault, Outcome

if TYPE_CHECKING:
    from ollad.relay.downstream import Downstream


def test_an_outcome_is_committed_once_there_is_a_response() -> None:
    assert not Outcome("sgl-a", body=b"held").committed
    assert not Outcome("sgl-a", fault=Fault.RESET).committed
    assert Outcome("sgl-a", response=cast("Downstream", object())).committed


def test_faults_are_told_apart_in_metrics() -> None:
    assert len({fault.value for fault in Fault}) == len(Fault)
