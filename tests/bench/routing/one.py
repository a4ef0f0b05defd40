"""One policy on one workload, in seconds: ``python -m tests.bench.routing.one POLICY WORKLOAD``."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from tests.bench.routing.figures import FIGURES, figures
from tests.bench.routing.fleets import FLEETS
from tests.bench.routing.policies import POLICIES
from tests.bench.routing.simulation import simulate
from tests.bench.routing.workloads import TRACE, WORKLOADS, workload


def main() -> int:
    """Print one line of figures per policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", help=f"comma-separated, or 'all': {', '.join(POLICIES)}")
    parser.add_argument("workload", help=f"comma-separated, or 'all': {', '.join(WORKLOADS)}")
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--fleet", choices=[*FLEETS], default="equal")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="so many seeds, a line each")
    parser.add_argument("--unary", type=float, help="share that is not streamed, 0..1")
    parser.add_argument("--trace", type=Path, default=TRACE)
    given = parser.parse_args()
    heads = " ".join(f"{figure.title:>8}" for figure in FIGURES)
    print(f"{'workload':15} {'policy':22} {'seed':>4} {heads} {'us/pick':>8} {'took s':>7}")
    for name in [*WORKLOADS] if given.workload == "all" else given.workload.split(","):
        for seed in range(given.seed, given.seed + given.seeds):
            load = workload(name, given.servers, Random(seed), given.trace)
            if given.unary is not None:
                load = replace(load, unary=given.unary)
            for policy in [*POLICIES] if given.policy == "all" else given.policy.split(","):
                began = time.perf_counter()
                fleet = FLEETS[given.fleet](given.servers)
                outcome = simulate(POLICIES[policy](Random(seed)), fleet, load, Random(seed))
                found = figures(outcome)
                cells = " ".join(f"{found[one.key]:8.{one.digits}f}" for one in FIGURES)
                took = time.perf_counter() - began
                cells += f" {outcome.choice * 1e6:8.1f} {took:7.1f}"
                print(f"{name:15} {policy:22} {seed:4} {cells}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
