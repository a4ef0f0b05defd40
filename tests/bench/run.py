"""Compares ollad with other proxies and writes docs/benchmarks.md, which says how.

``python -m tests.bench.run``, or ``make bench``, which installs ollad first.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.install import NotInstalledError, build, install, install_peers
from tests.bench.machine import facts
from tests.bench.peers import OLLAD, PEERS, Debian, ollad_of
from tests.bench.places import TREE, State
from tests.bench.scenarios import SCENARIOS
from tests.bench.stage import FailedError, stage
from tests.bench.table import Failure, Results, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.peers import Peer
    from tests.bench.scenarios import Measurement, Scenario

__all__ = ["Plan", "main", "plan"]

_FILES = 16384
"""Descriptors that 1000 streams need, with room to spare."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        minutes: no run is started after that many.
        out: where the page goes.
        command: what the page says made it.
    """

    peers: tuple[Peer, ...]
    scenarios: tuple[Scenario, ...]
    rounds: int
    minutes: float
    out: Path
    command: str


def plan(environment: Mapping[str, str]) -> Plan:
    """What the variables ``BENCH_*`` ask for.

    Raises:
        ValueError: if they name what there is not.
    """
    peers = {peer.name: peer for peer in PEERS}
    for other in environment.get("BENCH_OLLAD", "").split():
        name, _, tree = other.partition("=")
        peers[f"{OLLAD}-{name}"] = ollad_of(f"{OLLAD}-{name}", Path(tree).resolve())
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    chosen = _names(environment.get("BENCH_PEERS"), peers)
    asked = [f"{name}={environment[name]!r}" for name in _SHOWN if environment.get(name)]
    return Plan(
        peers=tuple(peers[name] for name in peers if name in chosen or name.startswith(OLLAD)),
        scenarios=tuple(
            scenarios[name] for name in _names(environment.get("BENCH_SCENARIOS"), scenarios)
        ),
        rounds=int(environment.get("BENCH_ROUNDS") or 3),
        minutes=float(environment.get("BENCH_MINUTES") or 90),
        out=Path(environment.get("BENCH_OUT") or TREE / "docs/benchmarks.md"),
        command=" ".join(["make bench", *asked]),
    )


_SHOWN = ("BENCH_ROUNDS", "BENCH_PEERS", "BENCH_SCENARIOS", "BENCH_OLLAD")


def _names(asked: str | None, known: Mapping[str, object]) -> list[str]:
    names = (asked or "").replace(",", " ").split()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names or list(known)


def measure(peer: Peer, scenario: Scenario, state: State) -> Measurement | Failure:
    """One run of one peer."""
    try:
        with stage(peer, state, scenario.events, scenario.pause) as ready:
            return scenario.run(ready)
    except FailedError as reason:
        return Failure(str(reason))


def rotated(peers: Sequence[Peer], by: int) -> list[Peer]:
    """The peers in another order each round, so that none has the best place every time."""
    by %= len(peers)
    return [*peers[by:], *peers[:by]]


def run(plan: Plan, state: State, missing: Mapping[str, str]) -> Results:
    """All rounds, or as many runs as the time allows."""
    deadline = time.monotonic() + 60 * plan.minutes
    peers = [peer for peer in plan.peers if peer.name not in missing]
    rounds: list[dict[tuple[str, str], Measurement | Failure]] = []
    for number in range(plan.rounds):
        rounds.append({})
        for scenario in plan.scenarios:
            for peer in rotated(peers, number):
                found: Measurement | Failure
                if time.monotonic() < deadline:
                    found = measure(peer, scenario, state)
                else:
                    found = Failure(f"not run: {plan.minutes:g} minutes were over")
                rounds[-1][scenario.name, peer.name] = found
                _say(number + 1, scenario, peer, found)
    described = {
        peer.name: f"{peer.source.version(state)}: {peer.what}"
        if peer.name not in missing
        else peer.what
        for peer in plan.peers
    }
    return Results(OLLAD, described, rounds, missing)


def _say(number: int, scenario: Scenario, peer: Peer, found: Measurement | Failure) -> None:
    if isinstance(found, Failure):
        said = f"FAILED: {found.reason}"
    else:
        said = ", ".join(
            f"{figure.title} {found.figures[figure.key]:.{figure.digits}f}"
            for figure in scenario.figures
            if figure.key in found.figures
        )
        if found.failures:
            said += f"; FAILED requests: {dict(found.failures)}"
        if found.others is not None:
            said += f"; others {found.others:.0%}"
    print(f"{number} {scenario.name:5} {peer.name:16} {said}", flush=True)


def main() -> int:
    """Run the benchmark; the exit code is not 0 if ollad itself has failed in some run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    state = State.of_user()
    try:
        chosen = plan(os.environ)
        build(state)
    except (ValueError, NotInstalledError) as reason:
        print(reason, file=sys.stderr)
        return 2
    try:
        missing = install_peers(chosen.peers, state)
        try:
            install(Debian("wrk"), state)
        except NotInstalledError as reason:
            print(f"A will fail: {reason}", file=sys.stderr)
        results = run(chosen, state, missing)
    except KeyboardInterrupt:
        print("interrupted; nothing is written", file=sys.stderr)
        return 130
    chosen.out.write_text(page(chosen.scenarios, results, facts(), chosen.command))
    print(f"written to {chosen.out}")
    failed = any(
        isinstance(found, Failure) or found.failures
        for found_in_round in results.rounds
        for (_, name), found in found_in_round.items()
        if name == OLLAD
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
