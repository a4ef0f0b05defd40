from __future__ import annotations

import structlog

from ollad.backends.pool import Pool
from ollad.backends.snapshot import State
from ollad.control import Verdict
from ollad.maintenance import carry_over, drain, enable
from tests.unit.builders import make_backend
from tests.unit.handlers.conftest import make_gateway

LOGGER = structlog.get_logger()


def test_a_drained_backend_takes_no_requests_and_says_how_many_it_still_has() -> None:
    backend, other = make_backend("sgl-a"), make_backend("sgl-b")
    backend.in_flight = 3
    gateway = make_gateway(backend, other)
    assert gateway.runtime.pool.routable() == (backend, other)
    verdict = drain(gateway, "sgl-a", LOGGER)
    assert verdict == Verdict(True, ("sgl-a gets no new requests; 3 under way there",), 3)
    assert gateway.runtime.pool.routable() == (other,)
    assert backend.since == gateway.wall()


def test_draining_the_last_one_says_what_clients_get() -> None:
    verdict = drain(make_gateway(make_backend("sgl-a")), "sgl-a", LOGGER)
    assert verdict.accepted
    assert "clients get 503" in verdict.messages[1]


def test_draining_twice_keeps_the_time_of_the_first_and_is_logged_once() -> None:
    backend = make_backend("sgl-a")
    gateway = make_gateway(backend)
    backend.drained_at = 5.0
    with structlog.testing.capture_logs() as logged:
        assert drain(gateway, "sgl-a", structlog.get_logger()).accepted
    assert backend.drained_at == 5.0
    assert logged == []


def test_an_enabled_backend_takes_requests_as_far_as_its_health_allows() -> None:
    well, ill = make_backend("sgl-a"), make_backend("sgl-b", state=State.DOWN, reason="no answer")
    gateway = make_gateway(well, ill)
    for name in ("sgl-a", "sgl-b"):
        drain(gateway, name, LOGGER)
    assert gateway.runtime.pool.routable() == ()
    assert enable(gateway, "sgl-a", LOGGER).messages == (
        "sgl-a takes requests: it is healthy, ready",
    )
    assert enable(gateway, "sgl-b", LOGGER).messages == (
        "sgl-b takes no requests yet: it is down, no answer",
    )
    assert gateway.runtime.pool.routable() == (well,)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    gateway = make_gateway(make_backend("sgl-a"), make_backend("sgl-b"))
    for command in (drain, enable):
        assert command(gateway, "sgl-c", LOGGER) == Verdict(
            False, ("there is no endpoint 'sgl-c'; there are: sgl-a, sgl-b",)
        )


def test_what_is_drained_stays_so_under_its_name_when_backends_are_made_anew() -> None:
    before = [make_backend("sgl-a"), make_backend("sgl-b"), make_backend("sgl-c")]
    before[0].drained_at = before[2].drained_at = 7.0
    anew = [make_backend(name) for name in ("sgl-a", "sgl-b", "sgl-d")]
    carry_over(Pool(before), Pool(anew))
    assert [backend.drained_at for backend in anew] == [7.0, None, None]


def test_the_health_task_does_not_end_a_drain() -> None:
    backend = make_backend("sgl-a", state=State.DOWN)
    backend.drained_at = 7.0
    backend.snapshot = make_backend("sgl-a", state=State.HEALTHY).snapshot
    assert not backend.routable
