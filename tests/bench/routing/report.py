"""The page of figures: what is in it, as a function of what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.routing.end_to_end import FASTER, PROXIES, SECONDS, SMALLER
from tests.bench.routing.figures import FIGURES, HTTP_FIGURES
from tests.bench.routing.policies import POLICIES, TITLES
from tests.bench.routing.results import TARGETS, subject
from tests.bench.routing.scenarios import Part
from tests.bench.routing.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.bench.routing.results import Results, Target
    from tests.bench.routing.scenarios import Scenario

__all__ = ["page", "verdicts"]

_KEYS: Final = {"mean": "mean", "p99": "p99", "hit": "hit rate"}


def page(
    scenarios: Sequence[Scenario],
    results: Results,
    facts: Mapping[str, str],
    versions: Mapping[str, str],
    command: str,
) -> str:
    """The whole page.

    Args:
        scenarios: the tables.
        results: what they say.
        facts: about the machine, by name.
        versions: what was measured over HTTP, by name.
        command: what made it.
    """
    parts = [
        f"# Routing: who has the first token sooner\n\nMade by `{command}`.\n\n{_WHAT}",
        _verdicts(results),
        *(_section(part, scenarios, results) for part in Part),
        _compared(versions),
        _HOW,
        "## Where\n\n" + _table(["", ""], [[name, value] for name, value in facts.items()]),
    ]
    if results.failures:
        parts.append("## What failed\n\n" + "\n".join(f"- {one}" for one in results.failures))
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


_WHAT: Final = """\
Each figure is the median of the rounds. A ratio is the figure of ollad's default, in bold,
divided by that of the line: the median of the ratios of each round, less than 1 where ollad is
sooner. Seconds are those from the request's arrival to its first token; the hit rate is the share
of prompt tokens found in a radix cache; imbalance is how long the busiest server computed prompts,
divided by the mean of all. In each round all policies get the same requests.
"""

_MODEL: Final = """\
A discrete-event model (`tests/bench/routing`). A server prefills 8,000 uncached tokens a second, in
steps of at most 2,048 over the requests at the head of its queue, first come, first served; then
each request decodes 50 tokens a second, at most 256 of them together. Its KV memory holds 2 million
tokens; blocks of the radix cache that no running request holds are evicted, least recently used
first, leaves before what they build on. Health polls are modelled, too: what a policy sees of a
server was true 1 to 5 s ago; what it counts itself is up to date. `equal` servers are all like
that; `mixed` ones are a quarter of twice the prefill rate, a quarter of that rate and a half of
half of it, with priorities 100, 50 and 25; `mixed-decode` ones differ in decode rate likewise. With
more or fewer than 8 servers, requests come faster or slower in proportion. Left out: the time a
request travels, what decode and prefill take from each other, and prefixes shorter than a block
(512 tokens in the trace, 128 elsewhere).
"""

_HTTP: Final = f"""\
Processes on one machine: `ollad simulate` servers, the proxy before them, and a client that sends
{SECONDS:g} s of the trace at its own times, whatever becomes of it, all of it streamed chats. To be
done in a minute the servers' clocks go {FASTER:g} times faster, and prompts, replies, caches and
rates are {SMALLER} times smaller; the figures are of the servers' clock, so that a millisecond that
a proxy takes counts as {FASTER:g}. Equal blocks of the trace are equal text. The hit rate is what
the servers say in `usage`; `failed` are requests that had no complete reply; `late` is how far the
client was behind its times, at most. The client acknowledges the head of a reply at once: where a
proxy leaves Nagle's algorithm on (sglang-router does), its first event would else come 40 ms later,
which would count as {FASTER:g} times that.
"""

_HOW: Final = """\
## How to run it

`make bench-routing` measures and writes this page. It takes some 20 minutes on two cores, and
installs sglang-router from PyPI in `${XDG_CACHE_HOME:-~/.cache}/ollad-bench`.

| variable | meaning |
| --- | --- |
| `TRACE` | the trace (default `../shared/traces/conversation.jsonl`) |
| `ROUTING_ROUNDS` | how often everything is measured, each time with another seed (default 3) |
| `ROUTING_SCENARIOS` | which tables: `model/*`, `model/trace/8/*`, `http/*` … (default: all) |
| `ROUTING_PROXIES` | which proxies are compared with ollad over HTTP (default: all) |
| `ROUTING_MINUTES` | no run over HTTP is begun after that time (default 40) |
| `ROUTING_OUT` | where to write the page (default `docs/routing-benchmarks.md`) |

The trace is the conversation trace of Mooncake (Qin et al., FAST'25), Apache-2.0, from
github.com/kvcache-ai/Mooncake (`FAST25-release/traces/conversation_trace.jsonl`).

One policy on one workload takes a second: `tests/bench/routing/README.md`.
"""


def verdicts(results: Results) -> list[tuple[Target, float]]:
    """The targets that were measured, and the ratios they are about."""
    found = []
    for target in TARGETS:
        scenario = target.scenario
        value = results.ratio(scenario.name, subject(scenario.part), target.other, target.key)
        if value is not None:
            found.append((target, value))
    return found


def _verdicts(results: Results) -> str:
    rows = [
        [
            target.scenario.name,
            f"{_KEYS[target.key]} {_bound(target)} that of {target.other}",
            f"{value:.2f}",
            "met" if target.met(value) else "**not met**",
        ]
        for target, value in verdicts(results)
    ]
    return "## Targets\n\n" + _table(["scenario", "target", "measured", ""], rows) if rows else ""


def _bound(target: Target) -> str:
    return f"at {'least' if target.least else 'most'} {target.bound:g} times"


def _section(part: Part, scenarios: Iterable[Scenario], results: Results) -> str:
    tables = [_scenario(one, results) for one in scenarios if one.part is part]
    if not tables:
        return ""
    head = f"## In the model\n\n{_MODEL}" if part is Part.MODEL else f"## Over HTTP\n\n{_HTTP}"
    return "\n".join([head, *tables])


def _scenario(scenario: Scenario, results: Results) -> str:
    figures = FIGURES if scenario.part is Part.MODEL else HTTP_FIGURES
    names = [*POLICIES] if scenario.part is Part.MODEL else [proxy.name for proxy in PROXIES]
    first = subject(scenario.part)
    names = [first, *(name for name in names if name != first)]
    rows = []
    for name in names:
        if not results.has(scenario.name, name):
            continue
        cells = [f"**{name}**" if name == first else name]
        for figure in figures:
            value = results.middle(scenario.name, name, figure.key)
            cells.append("" if value is None else f"{value:.{figure.digits}f}")
        for key in ("mean", "p99"):
            times = results.ratio(scenario.name, first, name, key)
            cells.append("" if name == first or times is None else f"{times:.2f}")
        rows.append(cells)
    columns = ["", *(figure.title for figure in figures), "ratio of means", "of p99s"]
    title = f"### {scenario.name}\n\n{WORKLOADS[scenario.workload]}; {scenario.fleet} servers.\n\n"
    return title + _table(columns, rows)


def _compared(versions: Mapping[str, str]) -> str:
    rows = [[f"`{name}`", TITLES[name]] for name in POLICIES]
    rows += [
        [proxy.name, f"{versions[proxy.name]}: {proxy.what}"]
        for proxy in PROXIES
        if proxy.name in versions
    ]
    return "## What was compared\n\n" + _table(["", ""], rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        _line(columns),
        _line(["---"] + ["---:" if len(columns) > 4 else "---"] * (len(columns) - 1)),
    ]
    return "\n".join([*lines, *map(_line, rows), ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
