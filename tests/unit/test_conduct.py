from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.backends.breaker import WARY_SECONDS
from ollad.conduct import Conduct
from ollad.metrics import Telemetry
from ollad.relay.exchange import Fault, Outcome, ReplyHead
from tests.unit.builders import make_backend

if TYPE_CHECKING:
    from ollad.backends.backend import Backend

NOW = 100.0
WALL = 1795370390.25  # Sun, 22 Nov 2026 17:59:50.25 GMT


def replied(status: int, **headers: str) -> Outcome:
    pairs = tuple((n.replace("_", "-").encode(), v.encode()) for n, v in headers.items())
    head = ReplyHead(status, b"", pairs, "application/json", 0)
    return Outcome("sgl-a", head=head, seconds=0.5)


def noted(*outcomes: Outcome, backend: Backend | None = None) -> tuple[Backend, Conduct, Telemetry]:
    """A backend after these exchanges, all begun at ``NOW`` and half a second long."""
    backend, telemetry = backend or make_backend(), Telemetry()
    conduct = Conduct(telemetry, lambda: WALL)
    for outcome in outcomes:
        conduct.note(backend, outcome, NOW)
    return backend, conduct, telemetry


@pytest.mark.parametrize(
    ("outcome", "until"),
    [
        (replied(429), 102.5),
        (replied(503), 102.5),
        (replied(503, Retry_After="0"), 102.5),
        (replied(503, retry_after="7"), 107.5),
        (replied(429, Retry_After="86400"), 160.5),
        (replied(429, Retry_After="Sun, 22 Nov 2026 18:00:00 GMT"), 110.25),
        (replied(429, Retry_After="Sunday, 22-Nov-26 18:00:00 GMT"), 110.25),
        (replied(429, Retry_After="Sun Nov 22 18:00:00 2026"), 110.25),
        (replied(429, Retry_After="Sun, 22 Nov 2026 19:00:00 GMT"), 160.5),
        (replied(429, Retry_After="Sun, 22 Nov 2026 17:00:00 GMT"), 102.5),
        (replied(429, Retry_After="Sun, 22 Nov 2026 18:00:00 GMT" + " " * 99), 102.5),
        (replied(429, Retry_After="Sun, 22 Nov 2026 18:00:60 GMT"), 102.5),
        (replied(429, Retry_After="Sun, 22 Nov 99999 18:00:00 GMT"), 102.5),
        (replied(429, Retry_After="soon"), 102.5),
        (replied(429, Retry_After=""), 102.5),
        (Outcome("sgl-a", fault=Fault.REFUSED, seconds=0.5), 102.5),
        (replied(500), 0.0),
        (replied(200, Retry_After="7"), 0.0),
        (replied(404), 0.0),
    ],
)
def test_who_has_enough_is_spared_as_long_as_it_says(outcome: Outcome, until: float) -> None:
    backend, conduct, _ = noted(outcome)
    assert backend.overloaded_until == until
    assert backend.breaker.closed
    assert conduct.wary_until < NOW


DATES = st.lists(
    st.sampled_from(
        ["Sun,", "22", "Nov", "2026", "18:00:00", "GMT", "+9999", "-0000", "9" * 20, ":"]
    )
    | st.text(st.characters(codec="latin-1"), max_size=5)
).map(" ".join)


@given(DATES)
def test_whatever_a_refusal_says_the_overload_is_bounded(date: str) -> None:
    head = ReplyHead(503, b"", ((b"Retry-After", date.encode("latin-1")),), "", 0)
    backend, _, _ = noted(Outcome("sgl-a", head=head))
    assert NOW + 2 <= backend.overloaded_until <= NOW + 60


def test_a_later_refusal_does_not_shorten_an_overload() -> None:
    backend, _, _ = noted(replied(503, Retry_After="30"), replied(503))
    assert backend.overloaded_until == 130.5


def test_an_ejection_is_counted_and_looked_out_for_until_long_after_it() -> None:
    backend, conduct, telemetry = noted(*[replied(500)] * 5)
    assert backend.breaker.until == 105.5
    assert backend.breaker.reason == "5 failures in a row (the last: status 500)"
    assert conduct.wary_until == 105.5 + WARY_SECONDS
    value = telemetry.registry.get_sample_value
    assert value("ollad_backend_ejections_total", {"backend": "sgl-a"}) == 1


def test_a_fault_is_named_in_the_reason() -> None:
    backend, _, _ = noted(*[Outcome("sgl-a", fault=Fault.IDLE_TIMEOUT)] * 5)
    assert backend.breaker.reason == "5 failures in a row (the last: idle_timeout)"


@pytest.mark.parametrize("status", [200, 404])
def test_any_answer_ends_a_row_of_failures(status: int) -> None:
    backend, _, _ = noted(*[replied(500)] * 4, replied(status), *[replied(500)] * 4)
    assert backend.breaker.closed


@pytest.mark.parametrize("outcome", [replied(503), Outcome("sgl-a", fault=Fault.STALE)])
def test_what_says_nothing_does_not_end_a_row_of_failures(outcome: Outcome) -> None:
    backend, _, _ = noted(*[replied(500)] * 4, outcome, replied(500))
    assert not backend.breaker.closed
