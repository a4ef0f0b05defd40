from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang import exposition

DATA = Path(__file__).parents[2] / "data" / "sglang"


@pytest.mark.parametrize(
    ("file", "cached", "computed"),
    [("metrics.txt", 1368.0, 421.0), ("metrics_openmetrics.txt", 1250.0, 405.0)],
)
def test_both_spellings_of_a_real_page_are_read(file: str, cached: float, computed: float) -> None:
    page = exposition.parse((DATA / file).read_bytes())
    assert page.total("realtime_tokens_total", mode="prefill_cache") == cached
    assert page.total("realtime_tokens_total", mode="prefill_compute") == computed
    assert page.total("max_total_num_tokens") == 20000
    assert page.pids() == {"9155"}
    assert page.page == {}


def read(*lines: str) -> exposition.Exposition:
    return exposition.parse("\n".join(lines).encode())


def test_counts_are_summed_over_data_parallel_ranks_and_ratios_averaged() -> None:
    page = read(
        'sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 3.0',
        'sglang:num_running_reqs{dp_rank="1",tp_rank="0"} 4.0',
        'sglang:token_usage{dp_rank="0",tp_rank="0"} 0.2',
        'sglang:token_usage{dp_rank="1",tp_rank="0"} 0.4',
    )
    assert page.total("num_running_reqs") == 7
    assert page.mean("token_usage") == pytest.approx(0.3)


def test_of_tensor_and_pipeline_parallel_ranks_only_the_first_counts() -> None:
    page = read(
        'sglang:num_running_reqs{pp_rank="0",tp_rank="1"} 3.0',
        'sglang:num_running_reqs{pp_rank="0",tp_rank="0"} 3.0',
        'sglang:num_running_reqs{pp_rank="1",tp_rank="0"} 3.0',
    )
    assert page.total("num_running_reqs") == 3


def test_under_data_parallel_attention_each_replica_counts_though_its_rank_is_not_0() -> None:
    page = read(
        'sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 3.0',
        'sglang:num_running_reqs{dp_rank="1",tp_rank="4"} 4.0',
        'sglang:num_running_reqs{dp_rank="1",tp_rank="5"} 4.0',
    )
    assert page.total("num_running_reqs") == 7


def test_splits_by_streaming_and_cache_source_are_summed() -> None:
    page = read(
        'sglang:prompt_tokens_total{is_streaming="true"} 1.5e+02',
        'sglang:prompt_tokens_total{is_streaming="false"} 50.0',
        'sglang:cached_tokens_total{cache_source="device"} 30',
        'sglang:cached_tokens_total{cache_source="host"} 10',
    )
    assert page.total("prompt_tokens_total") == 200
    assert page.total("cached_tokens_total") == 40


def test_a_gauge_split_by_priority_is_its_total_and_a_counter_the_sum_of_its_parts() -> None:
    page = read(
        'sglang:num_queue_reqs{priority=""} 5',
        'sglang:num_queue_reqs{priority="1"} 2',
        'sglang:num_queue_reqs{priority="2"} 3',
        'sglang:num_requests_total{priority=""} 5',
        'sglang:num_requests_total{priority="1"} 2',
    )
    assert page.total("num_queue_reqs") == 5
    assert page.total("num_requests_total") == 7


def test_labels_are_optional() -> None:
    page = read("sglang:num_running_reqs 2", "sglang:token_usage{} 0.5 1700000000000")
    assert page.total("num_running_reqs") == 2
    assert page.mean("token_usage") == 0.5


def test_label_values_may_hold_quotes_braces_and_spaces() -> None:
    page = read(r'sglang:num_running_reqs{model_name="a\"} 9 {b",dp_rank="0"} 2.0')
    assert page.total("num_running_reqs") == 2
    assert page.total("num_running_reqs", dp_rank="0") == 2


def test_the_pages_own_series_are_kept_apart() -> None:
    page = read(
        'sglang_num_requests_running{model="a"} 2',
        'sglang_num_requests_running{model="b"} 3',
        'sglang_radix_cache_usage_perc{model="a"} 0.2',
        'sglang_radix_cache_usage_perc{model="b"} 0.4',
        "sglang:num_requests_running 77",
    )
    assert page.own("num_requests_running") == 5
    assert page.own("radix_cache_usage_perc") == pytest.approx(0.3)
    assert page.own("radix_cache_hit_rate") is None
    assert page.engine == {}


def test_a_name_that_only_begins_like_a_wanted_one_is_another_series() -> None:
    assert read("sglang:num_running_reqs_extra 9", "xsglang:num_running_reqs 9").engine == {}


def test_values_that_are_no_finite_numbers_are_passed_over() -> None:
    page = read(
        "sglang:token_usage NaN",
        "sglang:num_running_reqs +Inf",
        "sglang:num_queue_reqs x",
        "sglang:num_requests_total 1e300",
    )
    assert page.engine == {}


@given(st.binary(max_size=400))
def test_no_page_breaks_the_reader(page: bytes) -> None:
    exposition.parse(page)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sglang:", "sglang_", "", "#"]),
            st.sampled_from(["num_running_reqs", "token_usage", "num_requests_running", "x"]),
            st.text(alphabet='{}",=\\ \tab0_é', max_size=30),
            st.text(alphabet="0123456789.e+-NaInf", max_size=8),
        )
    )
)
def test_no_line_breaks_the_reader(lines: list[tuple[str, str, str, str]]) -> None:
    page = read(*(f"{prefix}{name}{labels} {value}" for prefix, name, labels, value in lines))
    for name in ("num_running_reqs", "token_usage"):
        page.total(name)
        page.mean(name)
    page.own("num_requests_running")
    page.pids()
