"""What is measured: one load each, and the figures that come of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.loads import loadgen, start_loadgen, wrk
from tests.bench.measure import Meter, peak_mib, reset_peak, rss_mib
from tests.bench.stage import FailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.bench.loads import Load
    from tests.bench.measure import Usage
    from tests.bench.stage import Stage

__all__ = ["SCENARIOS", "Figure", "Measurement", "Scenario"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that a scenario measures.

    Attributes:
        key: its name in a measurement.
        title: its name and unit in a table.
        digits: behind the decimal point.
    """

    key: str
    title: str
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of a scenario gave.

    Attributes:
        figures: by the key of the figure.
        failures: failed requests, by kind.
        others: share of the cores that programs of somebody else took meanwhile, 0..1.
    """

    figures: Mapping[str, float]
    failures: Mapping[str, int] = field(default_factory=dict)
    others: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load and what is measured under it.

    Attributes:
        events: how many a stream of the backends has.
        pause: between two of them, in microseconds.
        run: the load itself.
    """

    name: str
    title: str
    text: str
    figures: tuple[Figure, ...]
    run: Callable[[Stage], Measurement]
    events: int = 200
    pause: int = 0


def _metered(stage: Stage, load: Callable[[], Load]) -> tuple[Load, Usage]:
    """Run a load with an eye on CPU time, after a moment for the proxy to come to rest.

    Raises:
        FailedError: if not one request succeeds.
    """
    time.sleep(0.3)
    meter = Meter(stage.proxy_pids, stage.backend_pids)
    found = load()
    usage = meter.read()
    if not found.ok:
        raise FailedError(f"no request succeeded: {dict(found.failures)}")
    return found, usage


def _quantile(load: Load, kind: str, name: str) -> dict[str, float]:
    """A quantile in milliseconds as a figure; nothing if nothing was timed."""
    return {f"{kind}_{name}": load.times[kind][name]} if kind in load.times else {}


def _small_replies(stage: Stage) -> Measurement:
    loadgen(stage, "plain", "-m", "-c", "64", "-d", "1")
    load, usage = _metered(stage, lambda: wrk(stage, connections=64, seconds=8))
    figures = {"cpu_request": 1e6 * usage.proxy / load.ok, **_quantile(load, "total", "p99")}
    return Measurement(figures, load.failures, usage.others)


def _streams(stage: Stage, warm_up: tuple[str, ...], options: tuple[str, ...]) -> Measurement:
    if warm_up:
        loadgen(stage, "stream", *warm_up)
    load, usage = _metered(stage, lambda: loadgen(stage, "stream", *options))
    if not load.events:
        raise FailedError("not one event arrived")
    figures = {
        "cpu_event": 1e6 * usage.proxy / load.events,
        "events_per_s": load.events_per_s,
        **_quantile(load, "ttfe", "p50"),
        **_quantile(load, "latency", "p99"),
    }
    return Measurement(figures, load.failures, usage.others)


def _fast_streams(stage: Stage) -> Measurement:
    load = ("-c", "64", "-e", "200")
    return _streams(stage, (*load, "-d", "1"), (*load, "-d", "6"))


def _paced_streams(count: int) -> Callable[[Stage], Measurement]:
    options = ("-c", str(count), "-r", "1500", "-d", "4", "-e", "100")
    return lambda stage: _streams(stage, (), options)


def _open_streams(stage: Stage) -> Measurement:
    before = rss_mib(stage.proxy_pids)
    load = start_loadgen(stage, "stream", "-c", "1000", "-r", "3000", "-d", "6", "-g", "0")
    try:
        time.sleep(8)
        streams = stage.backend_figures("active")
        memory = rss_mib(stage.proxy_pids)
    finally:
        load.kill()
        load.communicate()
    if not streams:
        raise FailedError("not one stream was open")
    figures = {"rss": memory, "stream": 1024 * (memory - before) / streams, "streams": streams}
    return Measurement(figures, {"not_open": 1000 - streams} if streams < 1000 else {})


def _start(stage: Stage) -> Measurement:
    return Measurement({"first_reply": 1e3 * stage.first_reply})


def _big_bodies(stage: Stage) -> Measurement:
    reset_peak(stage.proxy_pids)
    load, usage = _metered(stage, lambda: loadgen(stage, "big", "-m", "-c", "4", "-d", "5"))
    figures = {"cpu_body": 1e3 * usage.proxy / load.ok, "peak": peak_mib(stage.proxy_pids)}
    return Measurement(figures, load.failures, usage.others)


_CPU_EVENT = Figure("cpu_event", "CPU per event, µs")
_EVENTS = Figure("events_per_s", "events per second", 0)
_FIRST_EVENT = Figure("ttfe_p50", "first event, median, ms", 2)
_LATENCY = Figure("latency_p99", "event latency, p99, ms", 2)

SCENARIOS = (
    Scenario(
        "A",
        "small replies",
        "64 connections, 1 KiB requests, whole replies of 0.9 KiB, one after the other for 8 s.",
        (
            Figure("cpu_request", "CPU per request, µs"),
            Figure("total_p99", "latency, p99, ms", 2),
        ),
        _small_replies,
    ),
    Scenario(
        "B",
        "streams without pause",
        "64 connections, streams of 200 events as fast as they pass, for 6 s.",
        (_CPU_EVENT, _EVENTS),
        _fast_streams,
    ),
    Scenario(
        "C500",
        "500 streams",
        "Streams of 100 events, 20 ms apart, opened over 1.5 s, for 4 s after that.",
        (_CPU_EVENT, _FIRST_EVENT, _LATENCY, _EVENTS),
        _paced_streams(500),
        events=100,
        pause=20_000,
    ),
    Scenario(
        "C1000",
        "1000 streams",
        "The same with 1000 streams, which have 50,000 events a second.",
        (_CPU_EVENT, _FIRST_EVENT, _LATENCY, _EVENTS),
        _paced_streams(1000),
        events=100,
        pause=20_000,
    ),
    Scenario(
        "D",
        "memory",
        "1000 open streams of one event a second each. Resident memory of all processes of the "
        "proxy, and by how much it grew since before, per stream.",
        (Figure("rss", "memory, MiB"), Figure("stream", "per stream, KiB")),
        _open_streams,
        events=100_000,
        pause=1_000_000,
    ),
    Scenario(
        "E",
        "start-up",
        "From the start of the program to its first successful reply, files in the page cache.",
        (Figure("first_reply", "first reply, ms", 0),),
        _start,
    ),
    Scenario(
        "F",
        "large requests",
        "4 connections, requests of 8 MiB, small replies, for 5 s.",
        (Figure("cpu_body", "CPU per request, ms"), Figure("peak", "peak memory, MiB")),
        _big_bodies,
    ),
)
