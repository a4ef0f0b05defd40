"""The page of figures: what is in it, as a function of what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.scenarios import Figure, Measurement, Scenario

__all__ = ["Failure", "Results", "page", "ratio"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that gave no figures, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured.

    Attributes:
        subject: the name of the proxy that all are compared with.
        proxies: what each proxy is, by its name, in the order of the tables.
        rounds: one mapping per round, by the names of scenario and proxy.
        missing: why proxies could not be installed, by name.
    """

    subject: str
    proxies: Mapping[str, str]
    rounds: Sequence[Mapping[tuple[str, str], Measurement | Failure]]
    missing: Mapping[str, str]

    def measured(self, scenario: str, proxy: str) -> list[Measurement | None]:
        """The measurement of each round; None for one that failed or was not made."""
        found = (results.get((scenario, proxy)) for results in self.rounds)
        return [None if isinstance(one, Failure) else one for one in found]

    def figures(self, scenario: str, proxy: str, key: str) -> list[float | None]:
        """One figure of each round."""
        found = self.measured(scenario, proxy)
        return [None if one is None else one.figures.get(key) for one in found]


def ratio(subject: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """How many times as large one is: the median of the ratios of each round.

    What else goes on in the machine changes from minute to minute, so only figures of the same
    round are compared. None if no round has both.
    """
    pairs = zip(subject, other, strict=True)
    ratios = [a / b for a, b in pairs if a is not None and b]
    return median(ratios) if ratios else None


def page(
    scenarios: Sequence[Scenario],
    results: Results,
    facts: Mapping[str, str],
    command: str,
) -> str:
    """The page in Markdown.

    Args:
        scenarios: those that were run.
        facts: about the machine.
        command: that made the page.
    """
    parts = [
        _INTRODUCTION.format(command=command, rounds=len(results.rounds)),
        *(_section(scenario, results) for scenario in scenarios),
        _about(results, facts),
        _HOW,
    ]
    return "\n".join(parts)


_INTRODUCTION = """\
# Benchmarks

Made by `{command}`, rounds: {rounds}; not to be edited.

What is compared is the CPU time of the proxy's own processes, user and system: load, backends and
proxy share the cores of one machine, so that throughput says more about the machine than about
the proxy. Two backends in C that speak as SGLang does, a load generator in C (wrk for A), all on
loopback, all of it in `tests/bench`. In each round every proxy is measured once per scenario, one
after the other, in another order each time. Cells are minimum / median / maximum of the rounds.
Ratio is ollad's figure divided by the proxy's, the median of the ratios of each round.
"""

_HOW = """\
## How to run it

`make bench` builds the C programs, installs what is missing of nginx, haproxy and wrk with
`apt-get` (as root; Debian starts services of nginx and haproxy when it installs them) and the
others from PyPI, measures, and writes this page. All that it makes is in
`${XDG_CACHE_HOME:-~/.cache}/ollad-bench` and may be deleted.

| variable | meaning |
| --- | --- |
| `BENCH_ROUNDS` | how often everything is measured (default 3) |
| `BENCH_PEERS` | names of the first column above; ollad is always measured (default: all) |
| `BENCH_SCENARIOS` | `A`, `B`, `C500`, `C1000`, `D`, `E`, `F` (default: all) |
| `BENCH_OLLAD` | other checkouts of ollad to measure as well: `NAME=FOLDER ...` |
| `BENCH_MINUTES` | nothing is measured any more after that time (default 90) |
| `BENCH_OUT` | where to write the page (default `docs/benchmarks.md`) |
"""


def _section(scenario: Scenario, results: Results) -> str:
    columns = ["proxy"]
    for figure in scenario.figures:
        columns += [figure.title, "ratio"]
    columns.append("failed")
    rows = [_row(scenario, proxy, results) for proxy in results.proxies]
    lines = [
        f"## {scenario.name}: {scenario.title}\n",
        f"{scenario.text}\n",
        _line(columns),
        _line(["---"] + ["---:"] * (len(columns) - 1)),
        *(_line(row) for row in rows),
        "",
        *_reasons(scenario, results),
    ]
    return "\n".join(lines)


def _row(scenario: Scenario, proxy: str, results: Results) -> list[str]:
    cells = [f"**{proxy}**" if proxy == results.subject else proxy]
    for figure in scenario.figures:
        values = results.figures(scenario.name, proxy, figure.key)
        own = results.figures(scenario.name, results.subject, figure.key)
        times = None if proxy == results.subject else ratio(own, values)
        cells += [_spread(values, figure), "" if times is None else f"{times:.2f}"]
    return [*cells, _failed(scenario.name, proxy, results)]


def _spread(values: Sequence[float | None], figure: Figure) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    spread = (min(known), median(known), max(known)) if len(known) > 1 else known
    return " / ".join(f"{value:.{figure.digits}f}" for value in spread)


def _failed(scenario: str, proxy: str, results: Results) -> str:
    """Failed requests of all rounds, and failed rounds."""
    if proxy in results.missing:
        return "not installed"
    found = [one for one in results.measured(scenario, proxy) if one]
    requests = sum(sum(one.failures.values()) for one in found)
    lost = len(results.rounds) - len(found)
    return f"{requests}" + (f", {lost} of {len(results.rounds)} rounds" if lost else "")


def _reasons(scenario: Scenario, results: Results) -> list[str]:
    """Why rounds failed, and which kinds of requests."""
    lines = []
    for proxy in results.proxies:
        for number, found in enumerate(results.rounds, 1):
            one = found.get((scenario.name, proxy))
            if isinstance(one, Failure):
                lines.append(f"- {proxy}, round {number}: {one.reason}")
            elif one and one.failures:
                kinds = ", ".join(f"{n} {kind}" for kind, n in one.failures.items())
                lines.append(f"- {proxy}, round {number}: failed requests: {kinds}")
    return [*lines, ""] if lines else []


def _about(results: Results, facts: Mapping[str, str]) -> str:
    busy = [
        one.others
        for found in results.rounds
        for one in found.values()
        if not isinstance(one, Failure) and one.others is not None
    ]
    if busy:
        share = f"median {median(busy):.0%}, at most {max(busy):.0%} of the cores"
        facts = {**facts, "programs of others meanwhile": share}
    lines = ["## What was compared\n", _line(["proxy", "version and setting"])]
    lines.append(_line(["---", "---"]))
    lines += [_line([proxy, what]) for proxy, what in results.proxies.items()]
    if results.missing:
        lines.append("\nNot installed:\n")
        lines += [f"- {proxy}: {reason}" for proxy, reason in results.missing.items()]
    lines += ["\n## Where\n", _line(["", ""]), _line(["---", "---"])]
    lines += [_line([fact, value]) for fact, value in facts.items()]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
