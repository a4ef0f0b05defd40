"""However many names clients and backends come up with, the number of series stays small."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.metrics import Telemetry
from ollad.sglang.annotate import Usage
from tests.unit.builders import make_backend, make_record

if TYPE_CHECKING:
    from ollad.backends.backend import Backend

MANY = 3000
FEW = 1000


def series(telemetry: Telemetry) -> int:
    """How many samples both pages have."""
    registries = (telemetry.registry, telemetry.page_registry)
    return sum(len(family.samples) for page in registries for family in page.collect())


def request(telemetry: Telemetry, model: str | None, status: int = 200) -> None:
    telemetry.request_started("chat")
    record = make_record(
        model=model,
        served_model=model,
        endpoint="sgl-a",
        status=status,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
    )
    telemetry.request_finished(record, 0.1)
    telemetry.page(model or "", "sgl-a").duration.observe(0.1)


def with_backends(*backends: Backend) -> Telemetry:
    telemetry = Telemetry()
    telemetry.bind_pool(lambda: backends, clock=lambda: 0.0)
    return telemetry


def test_models_that_clients_make_up_are_other() -> None:
    telemetry = with_backends(make_backend("sgl-a"))
    request(telemetry, "made-up")
    before = series(telemetry)
    for number in range(MANY):
        request(telemetry, f"made-up-{number}")
    assert series(telemetry) == before


def test_statuses_that_backends_make_up_are_those_of_their_class() -> None:
    telemetry = with_backends(make_backend("sgl-a"))
    for status in range(1000):
        request(telemetry, None, status)
    assert series(telemetry) < 300


def test_backends_that_are_gone_leave_no_series_behind() -> None:
    telemetry = with_backends()
    request(telemetry, None)
    for kind in ("first", "second"):
        telemetry.attempt("chat", f"sgl-{kind}", "ok")
        telemetry.first_byte("chat", f"sgl-{kind}", 0.1)
        telemetry.probe(f"sgl-{kind}", "ok", 0.1)
        telemetry.page("", f"sgl-{kind}").duration.observe(1)
        telemetry.forget_backend(f"sgl-{kind}")
        if kind == "first":
            before = series(telemetry)
    assert series(telemetry) == before


def test_models_that_a_backend_serves_one_after_another_are_capped() -> None:
    backends: list[Backend] = [make_backend("sgl-a")]
    telemetry = Telemetry()
    telemetry.bind_pool(lambda: backends, clock=lambda: 0.0)
    for number in range(MANY):
        backends[0] = make_backend("sgl-a", models=(f"adapter-{number}",))
        request(telemetry, f"adapter-{number}")
    assert series(telemetry) < FEW * 10
