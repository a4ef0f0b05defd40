from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ollad.metrics import SERVED, Telemetry
from ollad.sglang.annotate import Usage
from tests.unit.builders import make_backend, make_record

if TYPE_CHECKING:
    from ollad.backends.backend import Backend
    from ollad.record import RequestRecord


@pytest.fixture
def telemetry() -> Telemetry:
    return with_backends(make_backend("sgl-a"), make_backend("sgl-b", models=("other-llama",)))


def with_backends(*backends: Backend) -> Telemetry:
    telemetry = Telemetry()
    telemetry.bind_pool(lambda: backends, clock=lambda: 0.0)
    return telemetry


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def exercise(telemetry: Telemetry) -> None:
    """Touch every series once."""
    telemetry.request_started("chat")
    telemetry.request_finished(
        make_record(
            served_model="tiny-llama",
            endpoint="sgl-a",
            request_bytes=10,
            response_bytes=20,
            usage=Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=3),
        ),
        0.25,
    )
    telemetry.attempt("chat", "sgl-a", "ok")
    telemetry.first_byte("chat", "sgl-a", 0.03)
    telemetry.chunk_gaps("chat").observe(0.02)
    telemetry.retry("chat", "connect_error")
    telemetry.retries_exhausted("chat")
    telemetry.stream_abort("chat", "client")
    telemetry.probe("sgl-a", "ok", 0.004)
    page = telemetry.page("tiny-llama", "sgl-a")
    page.duration.observe(0.3)
    page.first_token.observe(0.07)
    telemetry.bind_log(lambda: 2)


def test_a_request_counts_exactly_once(telemetry: Telemetry) -> None:
    for _ in range(3):
        telemetry.request_started("chat")
        telemetry.request_finished(make_record(served_model="tiny-llama"), 0.1)
    labels = {"family": "chat", "model": "tiny-llama", "code": "200"}
    assert value(telemetry, "ollad_requests_total", **labels) == 3
    assert value(telemetry, "ollad_request_duration_seconds_count", family="chat") == 3


def test_a_request_is_in_flight_from_its_start_to_its_end(telemetry: Telemetry) -> None:
    telemetry.request_started("chat")
    assert value(telemetry, "ollad_requests_in_flight", family="chat") == 1
    telemetry.request_finished(make_record(), 0.1)
    assert value(telemetry, "ollad_requests_in_flight", family="chat") == 0


@pytest.mark.parametrize("model", [None, "made-up", ""])
def test_a_model_that_nobody_serves_makes_no_series(
    telemetry: Telemetry, model: str | None
) -> None:
    telemetry.request_started("chat")
    telemetry.request_finished(make_record(model=model, served_model=model, status=404), 0.1)
    labels = {"family": "chat", "model": "other", "code": "404"}
    assert value(telemetry, "ollad_requests_total", **labels) == 1
    assert b"made-up" not in generate_latest(telemetry.registry)


@pytest.mark.parametrize(
    ("status", "code"), [(0, "499"), (418, "418"), (599, "500"), (499, "499"), (299, "200")]
)
def test_codes_come_from_a_fixed_set(telemetry: Telemetry, status: int, code: str) -> None:
    telemetry.request_started("chat")
    telemetry.request_finished(make_record(status=status), 0.1)
    assert value(telemetry, "ollad_requests_total", family="chat", model="other", code=code) == 1


def test_bytes_and_tokens_of_a_request_are_added_up(telemetry: Telemetry) -> None:
    exercise(telemetry)
    assert value(telemetry, "ollad_request_body_bytes_total", family="chat") == 10
    assert value(telemetry, "ollad_response_body_bytes_total", family="chat") == 20
    tokens = {
        kind: value(telemetry, "ollad_tokens_total", backend="sgl-a", kind=kind)
        for kind in ("input", "output", "cached")
    }
    assert tokens == {"input": 5, "output": 7, "cached": 3}


def test_unknown_token_figures_are_not_counted(telemetry: Telemetry) -> None:
    telemetry.request_started("chat")
    telemetry.request_finished(make_record(endpoint="sgl-a", usage=Usage(prompt_tokens=5)), 0.1)
    assert value(telemetry, "ollad_tokens_total", backend="sgl-a", kind="input") == 5
    assert value(telemetry, "ollad_tokens_total", backend="sgl-a", kind="output") is None


def test_upstream_events_are_counted_by_their_labels(telemetry: Telemetry) -> None:
    exercise(telemetry)
    family = {"family": "chat"}
    backend = {**family, "backend": "sgl-a"}
    once = (
        ("ollad_upstream_attempts_total", {**backend, "outcome": "ok"}),
        ("ollad_upstream_time_to_first_byte_seconds_count", backend),
        ("ollad_stream_chunk_gap_seconds_count", family),
        ("ollad_retries_total", {**family, "reason": "connect_error"}),
        ("ollad_retries_exhausted_total", family),
        ("ollad_stream_aborts_total", {**family, "side": "client"}),
        ("ollad_health_checks_total", {"backend": "sgl-a", "result": "ok"}),
        ("ollad_health_check_duration_seconds_count", {"backend": "sgl-a"}),
    )
    found = {name: value(telemetry, name, **labels) for name, labels in once}
    assert found == dict.fromkeys(found, 1)
    assert value(telemetry, "ollad_log_lines_dropped_total") == 2


def test_the_page_has_its_own_histograms_with_the_buckets_of_the_page(
    telemetry: Telemetry,
) -> None:
    exercise(telemetry)
    labels = {"model": "tiny-llama", "endpoint": "sgl-a"}
    sample = telemetry.page_registry.get_sample_value
    duration = "sglang_request_duration_seconds_bucket"
    first_token = "sglang_time_to_first_token_seconds_bucket"
    assert [sample(duration, {**labels, "le": le}) for le in ("0.1", "0.5", "1.0")] == [0, 1, 1]
    assert [sample(first_token, {**labels, "le": le}) for le in ("0.05", "0.1")] == [0, 1]
    assert b"sglang_" not in generate_latest(telemetry.registry)


def test_page_histograms_take_no_model_that_nobody_serves(telemetry: Telemetry) -> None:
    telemetry.page("made-up", "sgl-a").duration.observe(1)
    page = generate_latest(telemetry.page_registry)
    assert b"made-up" not in page
    assert b'model="other"' in page


def test_a_forgotten_backend_leaves_no_series() -> None:
    telemetry = with_backends()
    exercise(telemetry)
    telemetry.attempt("chat", "sgl-b", "ok")
    telemetry.forget_backend("sgl-a")
    text = generate_latest(telemetry.registry) + generate_latest(telemetry.page_registry)
    assert b"sgl-a" not in text
    assert b"sgl-b" in text


def test_a_forgotten_backend_can_come_back(telemetry: Telemetry) -> None:
    telemetry.attempt("chat", "sgl-a", "ok")
    telemetry.page("tiny-llama", "sgl-a").duration.observe(1)
    telemetry.forget_backend("sgl-a")
    telemetry.attempt("chat", "sgl-a", "ok")
    telemetry.page("tiny-llama", "sgl-a").duration.observe(1)
    labels = {"family": "chat", "backend": "sgl-a", "outcome": "ok"}
    assert value(telemetry, "ollad_upstream_attempts_total", **labels) == 1
    count = telemetry.page_registry.get_sample_value(
        "sglang_request_duration_seconds_count", {"model": "tiny-llama", "endpoint": "sgl-a"}
    )
    assert count == 1


def test_two_telemetries_do_not_share_anything() -> None:
    one, two = with_backends(make_backend()), with_backends(make_backend())
    one.retries_exhausted("chat")
    assert value(two, "ollad_retries_exhausted_total", family="chat") is None


def test_every_sample_belongs_to_a_documented_family(telemetry: Telemetry) -> None:
    exercise(telemetry)
    families = list(text_string_to_metric_families(generate_latest(telemetry.registry).decode()))
    names = {sample.name for family in families for sample in family.samples}
    assert not [family.name for family in families if not family.documentation]
    assert not [name for name in names if name.endswith("_created")]
    assert {"ollad_build_info", "ollad_backend_up", "ollad_requests_total"} <= names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say(telemetry: Telemetry) -> None:
    exercise(telemetry)
    verdict = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(telemetry.registry),
        capture_output=True,
        check=False,
    )
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, b"", b"")


def record_of(**fields: Any) -> RequestRecord:
    return make_record(**{"served_model": "tiny-llama", "endpoint": "sgl-a", **fields})


RECORDS = st.builds(
    record_of,
    family=st.sampled_from(["chat", "generate"]),
    served_model=st.sampled_from([None, "tiny-llama", "other-llama", "made-up"]),
    endpoint=st.sampled_from(["sgl-a", "sgl-b"]),
    status=st.sampled_from([200, 204, 299]),
    streamed=st.booleans(),
    first_byte=st.sampled_from([None, 0.03]),
    request_bytes=st.sampled_from([0, 10]),
    response_bytes=st.sampled_from([0, 20]),
    usage=st.sampled_from([None, Usage(), Usage(5, 7), Usage(5, 7, 3), Usage(cached_tokens=2)]),
)


@given(st.lists(st.tuples(RECORDS, st.booleans(), st.sampled_from([None, "sgl-a"])), max_size=6))
def test_a_request_served_at_once_counts_like_its_parts(
    steps: list[tuple[RequestRecord, bool, str | None]],
) -> None:
    backends = (make_backend("sgl-a"), make_backend("sgl-b", models=("other-llama",)))
    whole, parts = with_backends(*backends), with_backends(*backends)
    for record, page, forgotten in steps:
        backend = record.endpoint or ""
        for telemetry in (whole, parts):
            telemetry.request_started(record.family)
        whole.request_served(record, 0.3, 0.02, page)
        parts.attempt(record.family, backend, SERVED)
        parts.first_byte(record.family, backend, 0.02)
        if page:
            histograms = parts.page(record.served_model or "", backend)
            histograms.duration.observe(0.3)
            if record.streamed and record.first_byte is not None:
                histograms.first_token.observe(record.first_byte)
        parts.request_finished(record, 0.3)
        for telemetry in (whole, parts):
            if forgotten is not None:
                telemetry.forget_backend(forgotten)
    assert lines_of(whole) == lines_of(parts)


def lines_of(telemetry: Telemetry) -> list[bytes]:
    """All samples of both pages."""
    pages = (telemetry.registry, telemetry.page_registry)
    return sorted(line for page in pages for line in generate_latest(page).splitlines())


def test_what_a_forgotten_backend_counts_afterwards_begins_anew(telemetry: Telemetry) -> None:
    record = record_of(usage=Usage(5, 7, 3), request_bytes=10)
    for _ in range(2):
        for _ in range(3):
            telemetry.request_started("chat")
            telemetry.request_served(record, 0.1, 0.02, True)
        labels = {"backend": "sgl-a", "kind": "cached"}
        assert value(telemetry, "ollad_tokens_total", **labels) == 9
        telemetry.forget_backend("sgl-a")
        assert value(telemetry, "ollad_tokens_total", **labels) is None
        assert b"sgl-a" not in generate_latest(telemetry.page_registry)
    assert value(telemetry, "ollad_request_body_bytes_total", family="chat") == 60


def test_a_model_that_came_late_gets_its_own_series() -> None:
    backends = [make_backend("sgl-a", models=())]
    telemetry = with_backends()
    telemetry._pool = lambda: backends
    for models in ((), ("late",)):
        backends[0] = make_backend("sgl-a", models=models)
        telemetry.request_started("chat")
        telemetry.request_finished(record_of(served_model="late"), 0.1)
    counts = [
        value(telemetry, "ollad_requests_total", family="chat", model=model, code="200")
        for model in ("other", "late")
    ]
    assert counts == [1, 1]
