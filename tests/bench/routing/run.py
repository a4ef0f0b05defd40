"""Compares ways to route and writes docs/routing-benchmarks.md, which says how.

``python -m tests.bench.routing.run``, or ``make bench-routing``, which installs ollad first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.machine import facts
from tests.bench.peers import Checkout
from tests.bench.places import TREE, State
from tests.bench.routing.end_to_end import PROXIES, missing
from tests.bench.routing.processes import NotStartedError
from tests.bench.routing.report import page, verdicts
from tests.bench.routing.results import Results
from tests.bench.routing.scenarios import Part, chosen, modelled, replayed
from tests.bench.routing.workloads import TRACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.routing.end_to_end import Proxy
    from tests.bench.routing.scenarios import Scenario

__all__ = ["Plan", "main", "plan"]

_SHOWN = ("TRACE", "ROUTING_ROUNDS", "ROUTING_SCENARIOS", "ROUTING_PROXIES")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        minutes: no run over HTTP is begun after that many.
        out: where the page goes.
        command: what the page says made it.
    """

    scenarios: tuple[Scenario, ...]
    proxies: tuple[Proxy, ...]
    rounds: int
    minutes: float
    trace: Path
    out: Path
    command: str


def plan(environment: Mapping[str, str]) -> Plan:
    """What the variables ask for.

    Raises:
        ValueError: if they name what there is not.
    """
    patterns = environment.get("ROUTING_SCENARIOS", "").replace(",", " ").split()
    asked = environment.get("ROUTING_PROXIES", "").replace(",", " ").split()
    known = [proxy.name for proxy in PROXIES]
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    trace = Path(environment.get("TRACE") or TRACE)
    if not trace.is_file():
        raise ValueError(f"no trace at {trace}; name it: make bench-routing TRACE=PATH")
    given = [f"{name}={environment[name]!r}" for name in _SHOWN if environment.get(name)]
    return Plan(
        scenarios=chosen(patterns or ["*"]),
        proxies=tuple(proxy for proxy in PROXIES if not asked or proxy.name in {"ollad", *asked}),
        rounds=int(environment.get("ROUTING_ROUNDS") or 3),
        minutes=float(environment.get("ROUTING_MINUTES") or 40),
        trace=trace,
        out=Path(environment.get("ROUTING_OUT") or TREE / "docs/routing-benchmarks.md"),
        command=" ".join(["make bench-routing", *given]),
    )


def model(made: Plan, results: Results) -> None:
    """All rounds of the model, on all cores: its figures do not depend on the machine."""
    scenarios = [one for one in made.scenarios if one.part is Part.MODEL]
    with ProcessPoolExecutor() as pool:
        begun = [
            (number, one, pool.submit(modelled, one, number + 1, made.trace))
            for one in scenarios
            for number in range(made.rounds)
        ]
        for number, scenario, future in begun:
            for who, figures in future.result().items():
                results.rounds[number][scenario.name, who] = figures
            print(f"{number + 1} {scenario.name}", flush=True)


def rotated(proxies: Sequence[Proxy], by: int) -> list[Proxy]:
    """The proxies in another order each round, so that none has the best place every time."""
    by %= len(proxies)
    return [*proxies[by:], *proxies[:by]]


def http(made: Plan, proxies: Sequence[Proxy], results: Results, deadline: float) -> None:
    """All rounds over HTTP, one run after the other."""
    for number in range(made.rounds):
        for scenario in made.scenarios:
            if scenario.part is not Part.HTTP:
                continue
            for proxy in rotated(proxies, number):
                run = f"{number + 1} {scenario.name} {proxy.name}"
                if time.monotonic() > deadline:
                    results.failures.append(f"{run}: {made.minutes:g} minutes were over")
                    continue
                try:
                    figures = replayed(scenario, proxy, number + 1, made.trace)
                except NotStartedError as reason:
                    results.failures.append(f"{run}: {reason}")
                    continue
                results.rounds[number][scenario.name, proxy.name] = figures
                said = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
                print(f"{run}: {said}", flush=True)


def main() -> int:
    """Run the benchmark; the exit code is not 0 if a target is not met, or ollad has failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        made = plan(os.environ)
    except ValueError as reason:
        print(reason, file=sys.stderr)
        return 2
    results = Results([{} for _ in range(made.rounds)])
    deadline = time.monotonic() + 60 * made.minutes
    proxies: list[Proxy] = []
    try:
        model(made, results)
        if any(one.part is Part.HTTP for one in made.scenarios):
            absent = missing(made.proxies)
            results.failures += [f"{name}: {reason}" for name, reason in absent.items()]
            proxies = [proxy for proxy in made.proxies if proxy.name not in absent]
            http(made, proxies, results, deadline)
    except KeyboardInterrupt:
        print("interrupted; nothing is written", file=sys.stderr)
        return 130
    state = State.of_user()
    versions = {proxy.name: (proxy.source or Checkout()).version(state) for proxy in proxies}
    made.out.write_text(page(made.scenarios, results, facts(), versions, made.command))
    print(f"written to {made.out}")
    for failure in results.failures:
        print(f"FAILED: {failure}")
    unmet = [(target, value) for target, value in verdicts(results) if not target.met(value)]
    for target, value in unmet:
        print(f"NOT MET: {target.scenario.name}: {target.key} is {value:.2f} x {target.other}")
    return int(bool(unmet or results.failures))


if __name__ == "__main__":
    sys.exit(main())
