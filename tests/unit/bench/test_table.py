"""The page of figures."""

from __future__ import annotations

from tests.bench.scenarios import SCENARIOS, Measurement
from tests.bench.table import Failure, Results, page, ratio

BODIES = next(scenario for scenario in SCENARIOS if scenario.name == "F")


def made(*rounds: dict[str, Measurement | Failure], missing: dict[str, str] | None = None) -> str:
    """A page of rounds of the scenario F, by proxy."""
    results = Results(
        "ollad",
        {"ollad": "ours", "nginx": "theirs"},
        [{("F", proxy): found for proxy, found in results.items()} for results in rounds],
        missing or {},
    )
    return page([BODIES], results, {"processor": "fast"}, "make bench")


def cpu(milliseconds: float, **failures: int) -> Measurement:
    return Measurement({"cpu_body": milliseconds, "peak": 64.0}, failures, others=0.1)


def row(text: str, proxy: str) -> list[str]:
    """The cells of a proxy in the table of figures."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {proxy} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_compares_figures_of_the_same_round_only() -> None:
    assert ratio([2.0, 20.0, None], [1.0, 10.0, 1.0]) == 2.0


def test_there_is_no_ratio_without_a_common_round() -> None:
    assert ratio([1.0, None], [None, 1.0]) is None


def test_cells_are_minimum_median_and_maximum() -> None:
    text = made(
        {"ollad": cpu(9.0), "nginx": cpu(5.0)},
        {"ollad": cpu(6.0), "nginx": cpu(5.0)},
        {"ollad": cpu(7.0), "nginx": cpu(5.0)},
    )
    assert row(text, "**ollad**")[1:3] == ["6.0 / 7.0 / 9.0", ""]
    assert row(text, "nginx")[1:3] == ["5.0 / 5.0 / 5.0", "1.40"]


def test_failed_requests_are_counted_and_named() -> None:
    text = made({"ollad": cpu(6.0), "nginx": cpu(5.0, not_200=3, truncated=1)})
    assert row(text, "nginx")[-1] == "4"
    assert "nginx, round 1: failed requests: 3 not_200, 1 truncated" in text


def test_a_failed_round_is_counted_and_its_reason_given() -> None:
    text = made({"ollad": cpu(6.0), "nginx": Failure("ended with 1")})
    assert row(text, "nginx")[1:] == ["none", "", "none", "", "0, 1 of 1 rounds"]
    assert "nginx, round 1: ended with 1" in text


def test_a_proxy_that_could_not_be_installed_keeps_its_row_and_its_reason() -> None:
    text = made({"ollad": cpu(6.0)}, missing={"nginx": "no apt-get"})
    assert row(text, "nginx")[-1] == "not installed"
    assert "- nginx: no apt-get" in text


def test_the_page_tells_how_busy_the_machine_was_with_other_programs() -> None:
    assert "| programs of others meanwhile | median 10%, at most 10% of the cores |" in made(
        {"ollad": cpu(6.0)}
    )
