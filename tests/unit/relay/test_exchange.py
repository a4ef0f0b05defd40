from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ollad.relay.exchange import Fault, Outcome, ReplyHead

if TYPE_CHECKING:
    from ollad.relay.downstream import DownstreamReply


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-stream;charset=utf-8", True),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_an_event_stream_is_told_by_its_content_type(content_type: str, expected: bool) -> None:
    head = ReplyHead(200, "OK", (), content_type, None)
    assert head.event_stream is expected


def test_an_outcome_is_committed_once_there_is_a_response() -> None:
    assert not Outcome("sgl-a", body=b"held").committed
    assert not Outcome("sgl-a", fault=Fault.RESET).committed
    assert Outcome("sgl-a", response=cast("DownstreamReply", object())).committed


def test_faults_are_told_apart_in_metrics() -> None:
    assert len({fault.value for fault in Fault}) == len(Fault)
