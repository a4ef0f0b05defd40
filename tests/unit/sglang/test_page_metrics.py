from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from ollad.backends.snapshot import Load, State
from ollad.sglang.page_metrics import PageCollector, model_label
from tests.unit.builders import card, make_backend

LOAD = Load(running=5, waiting=2, radix_usage=0.42, hit_rate=0.89, spec_accepted_tokens=12458)


def test_every_backend_has_its_own_series() -> None:
    page = generate_latest(
        PageCollector(
            [
                make_backend("sgl-a", load=LOAD),
                make_backend("sgl-b", models=("other",), load=Load(running=7)),
            ]
        )
    ).decode()
    samples = [line for line in page.splitlines() if not line.startswith("#")]
    a = 'endpoint="sgl-a",model="tiny-llama"'
    assert samples == [
        f"sglang_num_requests_running{{{a}}} 5.0",
        'sglang_num_requests_running{endpoint="sgl-b",model="other"} 7.0',
        f"sglang_num_requests_waiting{{{a}}} 2.0",
        f"sglang_radix_cache_usage_perc{{{a}}} 0.42",
        f"sglang_radix_cache_hit_rate{{{a}}} 0.89",
        f"sglang_spec_decode_num_accepted_tokens_total{{{a}}} 12458.0",
    ]


def test_a_backends_own_series_is_believed_first() -> None:
    native = {"sglang_num_requests_running": 9.0, "sglang_unheard_of": 1.0}
    page = generate_latest(PageCollector([make_backend(load=LOAD, native_metrics=native)])).decode()
    assert 'sglang_num_requests_running{endpoint="sgl-a",model="tiny-llama"} 9.0' in page
    assert 'sglang_num_requests_waiting{endpoint="sgl-a",model="tiny-llama"} 2.0' in page
    assert "sglang_unheard_of" not in page


@pytest.mark.parametrize("state", [State.UNKNOWN, State.DOWN])
def test_a_backend_that_does_not_answer_has_no_figures(state: State) -> None:
    page = generate_latest(PageCollector([make_backend(load=LOAD, state=state)]))
    assert b"sgl-a" not in page


def test_figures_stand_under_the_base_model() -> None:
    base, adapter = card("tiny-llama"), card("poet", parent="tiny-llama")
    labels = [
        model_label(make_backend(models=cards)) for cards in ((adapter, base), (adapter,), ())
    ]
    assert labels == ["tiny-llama", "poet", ""]
