"""The programs that make the load, and what they found."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench.places import HERE
from tests.bench.stage import FailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.stage import Stage

__all__ = ["Load", "loadgen", "start_loadgen", "wrk"]

_LIMIT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator found.

    Attributes:
        ok: successful requests.
        events: events of all streams.
        events_per_s: the same, per second, without ramp and end.
        times: quantiles in milliseconds by kind and name, as ``times["latency"]["p99"]``.
        failures: how many requests failed, by kind; without kinds that did not occur.
    """

    ok: int
    events: int
    events_per_s: float
    times: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, int]


def wrk(stage: Stage, connections: int, seconds: int) -> Load:
    """Small requests, one after the other on each connection.

    Raises:
        FailedError: if wrk is not installed or fails.
    """
    program = shutil.which("wrk")
    if program is None:
        raise FailedError("wrk is not installed")
    command = [
        *(program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "post.lua")),
        *(f"http://127.0.0.1:{stage.ports.proxy}{stage.peer.path}", "--"),
        str(stage.state.body("plain")),
    ]
    lines = _output(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)).splitlines()
    reports = [line.removeprefix("JSON ") for line in lines if line.startswith("JSON ")]
    if not reports:
        raise FailedError(f"wrk: {' '.join(lines)[-300:]}")
    found = json.loads(reports[0])
    times = {"total": {"p50": found["p50_ms"], "p99": found["p99_ms"]}}
    return Load(found["ok"], 0, 0.0, times, _occurred(found["failures"]))


def loadgen(stage: Stage, body: str, *options: str) -> Load:
    """Run ``loadgen.c``, which says what the options mean.

    Raises:
        FailedError: if it fails.
    """
    found: dict[str, Any] = json.loads(_output(start_loadgen(stage, body, *options)))
    kinds = ("ttfb", "ttfe", "latency", "gap", "total")
    return Load(
        ok=found["ok"],
        events=found["events"],
        events_per_s=found["events_per_s"],
        times={kind: found[kind] for kind in kinds if kind in found},
        failures=_occurred(found["failures"]),
    )


def start_loadgen(stage: Stage, body: str, *options: str) -> subprocess.Popen[str]:
    """The same, without waiting for its end."""
    command = [
        *(str(stage.state.loadgen), "-p", str(stage.ports.proxy), "-P", stage.peer.path),
        *("-b", str(stage.state.body(body)), *options),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _output(process: subprocess.Popen[str]) -> str:
    """What a program prints, which ends in bounded time.

    Raises:
        FailedError: if it does not, or fails.
    """
    with process:
        try:
            output, _ = process.communicate(timeout=_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise FailedError(f"the load did not end within {_LIMIT_SECONDS} s") from None
        finally:
            process.kill()
    if process.returncode:
        raise FailedError(f"the load generator ended with {process.returncode}")
    return output


def _occurred(failures: Mapping[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in failures.items() if count}
