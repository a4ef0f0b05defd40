"""Measures what it costs to watch ollad: access log, metrics, scrapes.

``python -m tests.bench.observing [--rounds N] [--seconds N]`` after ``make bench`` has built its
programs. CPU time of ollad alone, runs of the variants in turn, medians and their ratio; so the
load of the machine, which the last column shows, matters little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from ollad.config.schema import Logging
from ollad.logs import access_line, configure
from ollad.metrics import Telemetry
from ollad.record import RequestRecord
from ollad.sglang.annotate import Usage
from tests.bench.install import build
from tests.bench.loads import wrk
from tests.bench.measure import Meter
from tests.bench.peers import ollad_of
from tests.bench.places import TREE, State
from tests.bench.stage import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.peers import Peer, Place
    from tests.bench.stage import Stage

CONNECTIONS = 64
TURNS = 50_000
PLAIN = ollad_of("ollad", TREE)
PAGES = ("/metrics", "/olla/sglang/metrics")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what watching ollad costs.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each run")
    options = parser.parse_args()
    calls()
    runs(options.rounds, options.seconds)


def calls() -> None:
    """What one request's calls cost, without a daemon around them."""
    telemetry = Telemetry()
    record = _record()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
        configure(Logging(format="json"), stream=nowhere, environ={})
        logger = structlog.get_logger()

        def count() -> None:
            telemetry.request_started("chat")
            telemetry.attempt("chat", "a", "ok")
            telemetry.first_byte("chat", "a", 0.01)
            telemetry.request_finished(record, 0.1)

        gap = telemetry.chunk_gaps("chat").observe
        print("| call | µs of CPU |\n|---|---|")
        for name, call in (
            ("metrics of a request", count),
            ("metrics of an event of a stream", lambda: gap(0.02)),
            ("access line of a request", lambda: access_line(logger, record, 0.1)),
        ):
            print(f"| {name} | {_microseconds(call):.2f} |")
    print()


def _record() -> RequestRecord:
    record = RequestRecord(
        request_id="0192f0c1-0000-7000-8000-000000000000",
        started=0.0,
        client="192.0.2.7",
        method="POST",
        path="/olla/sglang/v1/chat/completions",
        family="chat",
    )
    record.model, record.endpoint, record.status = "m", "a", 200
    record.request_bytes, record.response_bytes = 300, 600
    record.first_byte, record.attempts = 0.01, 1
    record.usage = Usage(prompt_tokens=40, completion_tokens=16, cached_tokens=32)
    return record


def _microseconds(call: Callable[[], None]) -> float:
    """CPU time of one call, the least of five tries."""
    tries = []
    for _ in range(5):
        begun = time.process_time()
        for _ in range(TURNS):
            call()
        tries.append(time.process_time() - begun)
    return min(tries) / TURNS * 1e6


def runs(rounds: int, seconds: int) -> None:
    """CPU time per small request of the daemon, watched in several ways."""
    state = State.of_user()
    build(state)
    variants: dict[str, tuple[Peer, float]] = {
        "no access log, not scraped": (PLAIN, 0.0),
        "access log": (replace(PLAIN, name="ollad-access", command=_with_access_log), 0.0),
        "scraped once a second": (replace(PLAIN, name="ollad-scraped"), 1.0),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for name, (peer, interval) in variants.items():
            with stage(peer, state, events=1, pause=0) as ready, _scraping(ready, interval):
                meter = Meter(ready.proxy_pids, ready.backend_pids)
                load = wrk(ready, CONNECTIONS, seconds)
                usage = meter.read()
            if load.failures or not load.ok:
                raise SystemExit(f"{name}: {load.failures or 'no request'}")
            found[name].append((usage.proxy / load.ok * 1e6, usage.others))
    first = statistics.median(cpu for cpu, _ in next(iter(found.values())))
    print("| watched by | µs of CPU per request: min | median | max | ratio | others' share |")
    print("|---|---|---|---|---|---|")
    for name, figures in found.items():
        cpu = [each for each, _ in figures]
        median, others = statistics.median(cpu), max(share for _, share in figures)
        print(
            f"| {name} | {min(cpu):.1f} | {median:.1f} | {max(cpu):.1f} | {median / first:.2f} "
            f"| {others:.0%} |"
        )


def _with_access_log(place: Place) -> list[str]:
    command = PLAIN.command(place)
    file = place.folder / "ollad.yaml"
    file.write_text(file.read_text().replace("access: false", "access: true"))
    return command


@contextmanager
def _scraping(ready: Stage, interval: float) -> Iterator[None]:
    """Read both pages every ``interval`` seconds; not at all if that is 0."""
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(interval):
            for page in PAGES:
                url = f"http://127.0.0.1:{ready.ports.proxy}{page}"
                with urllib.request.urlopen(url, timeout=10) as reply:
                    reply.read()

    thread = threading.Thread(target=scrape)
    if interval:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if interval:
            thread.join()


if __name__ == "__main__":
    main()
