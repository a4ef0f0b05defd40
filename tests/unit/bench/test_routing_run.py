"""What make bench-routing measures, and the page that it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.routing.end_to_end import PROXIES, slice_of
from tests.bench.routing.load import Load, Request
from tests.bench.routing.replay import prompt, usage_of
from tests.bench.routing.report import page, verdicts
from tests.bench.routing.results import TARGETS, Results
from tests.bench.routing.run import plan
from tests.bench.routing.scenarios import SCENARIOS, Part, Scenario, chosen
from tests.bench.routing.workloads import trace

if TYPE_CHECKING:
    from pathlib import Path

TRACE = Scenario(Part.MODEL, "trace")
HTTP = Scenario(Part.HTTP, "trace-spread")


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A trace of two requests."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
        '{"timestamp": 9000, "input_length": 512, "output_length": 1, "hash_ids": [0]}\n'
    )
    return path


def results(*means: tuple[float, float]) -> Results:
    """Rounds of the trace, ollad's mean and that of cache-aware in each."""
    return Results(
        [
            {
                (TRACE.name, "ollad:prefix-cache"): {"mean": ours, "p99": 1.0, "hit": 0.8},
                (TRACE.name, "cache-aware"): {"mean": theirs, "p99": 2.0, "hit": 1.0},
            }
            for ours, theirs in means
        ]
    )


def made(found: Results) -> str:
    return page([TRACE], found, {"processor": "fast"}, {}, "make bench-routing")


def test_everything_is_measured_unless_told_otherwise(short: Path) -> None:
    asked = plan({"TRACE": str(short)})
    assert asked.scenarios == SCENARIOS
    assert asked.proxies == PROXIES
    assert asked.rounds == 3


def test_scenarios_are_chosen_by_pattern(short: Path) -> None:
    asked = plan({"TRACE": str(short), "ROUTING_SCENARIOS": "model/trace/*,http/*"})
    assert {one.workload for one in asked.scenarios if one.part is Part.MODEL} == {"trace"}
    assert any(one.part is Part.HTTP for one in asked.scenarios)
    assert asked.command.endswith("ROUTING_SCENARIOS='model/trace/*,http/*'")


def test_ollad_is_measured_with_whatever_proxies_are_chosen(short: Path) -> None:
    asked = plan({"TRACE": str(short), "ROUTING_PROXIES": "sglang-router"})
    assert [proxy.name for proxy in asked.proxies] == ["ollad", "sglang-router"]


@pytest.mark.parametrize(
    "environment",
    [{"ROUTING_SCENARIOS": "model/nothing/*"}, {"ROUTING_PROXIES": "apache"}, {"TRACE": "/no"}],
)
def test_what_there_is_not_is_refused(short: Path, environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no scenario|unknown: apache|no trace at /no"):
        plan({"TRACE": str(short), **environment})


def test_every_target_is_about_something_that_is_measured() -> None:
    assert {target.scenario for target in TARGETS} <= set(chosen(["*"]))


def test_a_trace_runs_faster_where_there_are_more_servers(short: Path) -> None:
    assert trace(short, 8).arrivals[1] == (9.0, Request((0,), 512, 1))
    assert [at for at, _ in trace(short, 16).arrivals] == [1.5, 4.5]


def test_a_file_that_is_no_trace_is_named_with_its_line(short: Path) -> None:
    short.write_text(short.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"trace\.jsonl:3: no request of a trace"):
        trace(short, 8)


def test_a_slice_has_the_first_seconds(short: Path) -> None:
    assert [at for at, _ in slice_of(trace(short, 8), 9.0).arrivals] == [3.0]


def test_equal_beginnings_of_chains_are_equal_beginnings_of_prompts_and_nothing_more() -> None:
    load = Load("", [], 512)
    first = prompt(Request((1, 2, 3), 1200, 1), load.block_tokens, 4)
    second = prompt(Request((1, 2, 4), 1400, 1), load.block_tokens, 4)
    same = next(index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    words = 2 * 512 // 4
    assert same // 6 == words
    assert len(first.split()) == 1200 // 4
    assert len(second.split()) == 1400 // 4


def test_a_stream_counts_only_if_it_is_complete() -> None:
    whole = b'data: {"a": 1}\n\ndata: {"usage": {"prompt_tokens": 7}}\n\ndata: [DONE]\n\n'
    assert usage_of(whole[-60:]) == {"prompt_tokens": 7}
    with pytest.raises(ValueError, match="the stream ends with"):
        usage_of(whole[:-4])
    with pytest.raises(ValueError, match="the stream ends with"):
        usage_of(b"")


def test_a_target_is_met_by_the_median_of_the_ratios_of_each_round() -> None:
    found = results((1.0, 2.0), (3.0, 4.0), (30.0, 40.0))
    ratios = {(target.key, round(value, 3)): target.met(value) for target, value in verdicts(found)}
    assert ratios == {("mean", 0.75): True, ("p99", 0.5): True, ("hit", 0.8): False}


def test_the_page_says_which_targets_are_met() -> None:
    lines = made(results((1.0, 2.0))).splitlines()
    assert (
        "| model/trace/8/equal | mean at most 0.75 times that of cache-aware | 0.50 | met |"
        in lines
    )
    assert any("hit rate at least 0.9" in line and "**not met**" in line for line in lines)


def test_a_row_has_the_median_of_the_rounds_and_the_ratios_to_the_default() -> None:
    text = made(results((1.0, 4.0), (2.0, 4.0), (9.0, 6.0)))
    ours = next(line for line in text.splitlines() if line.startswith("| **ollad:prefix-cache**"))
    theirs = next(line for line in text.splitlines() if line.startswith("| cache-aware |"))
    assert [cell.strip() for cell in ours.split("|")][2:4] == ["0.800", "2.000"]
    assert [cell.strip() for cell in theirs.split("|")][3] == "4.000"
    assert [cell.strip() for cell in theirs.split("|")][-3:-1] == ["0.50", "0.50"]


def test_a_run_that_failed_is_on_the_page() -> None:
    found = results((1.0, 2.0))
    found.failures.append(f"1 {HTTP.name} sglang-router: does not start")
    assert "- 1 http/trace-spread/8/equal sglang-router: does not start" in made(found)
