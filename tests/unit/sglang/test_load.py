from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang import exposition, load, readings
from tests.unit.sglang.test_values import ANYTHING

DATA = Path(__file__).parents[2] / "data" / "sglang"
GIB = 1 << 30


def reply(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def page(*lines: str) -> exposition.Exposition:
    return exposition.parse("\n".join(lines).encode())


def test_a_full_queue_is_read_from_real_loads() -> None:
    report = load.from_loads(reply("loads_queue_full.json"))
    assert report is not None
    assert (report.running, report.waiting, report.waiting_uncached_tokens) == (1, 1, 17)
    assert report.token_usage == pytest.approx(0.0488)
    assert report.kv_tokens == 20000
    assert report.kv_gb == pytest.approx(0.005)
    assert (report.version, report.speculative) == ("0.5.23", None)


def test_loads_of_0_5_9_are_summed_over_replicas_and_usage_is_weighted_by_size() -> None:
    ranks = [
        {"dp_rank": 0, "num_running_reqs": 3, "num_waiting_reqs": 1, "num_total_reqs": 4,
         "max_total_num_tokens": 300, "token_usage": 0.2},
        {"dp_rank": 1, "num_running_reqs": 4, "num_waiting_reqs": 0, "num_total_reqs": 4,
         "max_total_num_tokens": 100, "token_usage": 0.6, "speculative": {"accept_length": 2.0}},
    ]  # fmt: skip
    report = load.from_loads(
        {"version": "0.5.9", "dp_rank_count": 2, "loads": ranks, "aggregate": {}}
    )
    assert report is not None
    assert (report.running, report.waiting, report.waiting_uncached_tokens) == (7, 1, None)
    assert report.token_usage == pytest.approx(0.3)
    assert (report.kv_tokens, report.kv_gb, report.speculative) == (400, None, True)


def test_get_load_is_a_list_of_replicas_up_to_0_5_20() -> None:
    ranks = [{"num_reqs": 5, "num_waiting_reqs": 2}, {"num_reqs": 1, "num_waiting_reqs": 0}]
    report = load.from_get_load(ranks)
    assert report is not None
    assert (report.running, report.waiting) == (4, 2)


def test_get_load_of_0_4_10_counts_tokens_and_tells_nothing_of_requests() -> None:
    assert load.from_get_load({"load": 0}) is None


def test_a_real_metrics_page_gives_all_figures() -> None:
    real = exposition.parse((DATA / "metrics.txt").read_bytes())
    report = load.from_metrics(real)
    assert (report.running, report.waiting, report.kv_tokens) == (1, 0, 20000)
    assert report.token_usage == pytest.approx(0.1)
    assert report.radix_usage == pytest.approx((2053 + 81) / 20000)
    assert load.accepted_tokens(real) is None


def test_waiting_counts_the_grammar_queue() -> None:
    report = load.from_metrics(page("sglang:num_queue_reqs 2", "sglang:num_grammar_queue_reqs 1"))
    assert report.waiting == 3


def test_before_0_5_12_the_pinned_share_stands_for_radix_usage() -> None:
    report = load.from_metrics(page("sglang:token_usage 0.4"))
    finished = load.to_load(report, hit_rate=None, accepted=None, kv_copies=1)
    assert finished.radix_usage == 0.4


def test_the_size_of_the_cache_is_that_of_all_ranks() -> None:
    report = load.LoadReport(kv_gb=1.5)
    finished = load.to_load(report, hit_rate=None, accepted=None, kv_copies=4)
    assert finished.kv_bytes == 6 * GIB


def test_each_figure_comes_from_the_first_source_that_has_it() -> None:
    report = load.combined(
        [
            None,
            load.LoadReport(running=0, counters={"a": 1.0}),
            load.LoadReport(running=5, waiting=2, counters={"b": 2.0}),
        ]
    )
    assert (report.running, report.waiting) == (0, 2)
    assert report.counters == {"a": 1.0, "b": 2.0}


def test_the_pages_own_series_are_believed() -> None:
    report, series = load.from_page(
        page(
            "sglang_num_requests_running 2",
            "sglang_radix_cache_usage_perc 0.42",
            "sglang_radix_cache_hit_rate 0.89",
            "sglang_spec_decode_num_accepted_tokens_total 12458",
        )
    )
    assert (report.running, report.radix_usage, report.accepted_tokens) == (2, 0.42, 12458)
    assert load.to_load(report, hit_rate=0.1, accepted=None, kv_copies=1).hit_rate == 0.89
    assert series is not None
    assert series["sglang_num_requests_running"] == 2


def test_an_engine_without_the_pages_series_has_none() -> None:
    assert load.from_page(page("sglang:num_running_reqs 2"))[1] is None


def test_the_pages_health_document_is_believed() -> None:
    report = load.from_page_health(
        {"num_requests_running": 3, "num_requests_waiting": "x", "radix_cache_usage_perc": 0.35}
    )
    assert report is not None
    assert (report.running, report.waiting, report.radix_usage) == (3, None, 0.35)


def test_accepted_tokens_are_derived_from_verifications() -> None:
    lines = ("sglang:generation_tokens_total 100", "sglang:spec_verify_calls_total 30")
    assert load.accepted_tokens(page(*lines, "sglang:num_requests_total 10")) == 60
    assert load.accepted_tokens(page(*lines, "sglang:num_requests_total 90")) == 0


def test_prompt_tokens_without_a_hit_yet_are_all_uncached() -> None:
    tokens = load.prompt_tokens(page("sglang:prompt_tokens_total 10"))
    assert tokens is not None
    assert (tokens.cached, tokens.total) == (0, 10)


def test_prompt_tokens_come_from_the_scheduler_where_the_tokenizer_has_none() -> None:
    tokens = load.prompt_tokens(
        page(
            'sglang:realtime_tokens_total{mode="prefill_compute"} 10',
            'sglang:realtime_tokens_total{mode="prefill_cache"} 30',
        )
    )
    assert tokens is not None
    assert (tokens.cached, tokens.total) == (30, 40)
    assert load.prompt_tokens(page()) is None


def test_a_server_description_gives_the_size_of_the_cache() -> None:
    report = load.from_server_info(readings.server_info(reply("server_info.json")))
    assert report is not None
    assert report.kv_tokens == 20000
    assert report.kv_gb == pytest.approx(0.005)
    assert load.from_server_info(None) is None


RANK = st.dictionaries(st.sampled_from(sorted(reply("loads.json")["loads"][0])), ANYTHING)


@given(st.fixed_dictionaries({"loads": st.lists(RANK | ANYTHING) | ANYTHING}) | ANYTHING)
def test_no_reply_breaks_the_readers(document: Any) -> None:
    report = load.combined([load.from_loads(document), load.from_get_load(document)])
    if isinstance(document, dict):
        load.from_page_health(document)
    load.to_load(report, hit_rate=None, accepted=None, kv_copies=3)
