"""The running totals behind ``/metrics``."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.simulator.engine import Task

__all__ = ["Histogram", "Statistics", "Traffic"]

# Bucket bounds as a real server has them (SGLang observability/metrics_collector.py).
FIRST_TOKEN_BOUNDS: Final = (
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0),
    *(100.0, 200.0, 400.0),
)
LATENCY_BOUNDS: Final = (*FIRST_TOKEN_BOUNDS, 600.0, 1200.0, 1800.0, 2400.0)
INTER_TOKEN_BOUNDS: Final = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08),
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
)


class Histogram:
    """Counts by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = (*bounds, float("inf"))
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(slots=True)
class Traffic:
    """What requests came to, streams and others apart."""

    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_BOUNDS))
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))


class Statistics:
    """Everything counted since the start.

    Attributes:
        traffic: of requests that ended, by whether they were streams.
        cached_tokens: prompt tokens found in the cache.
        computed_tokens: prompt tokens that were not.
        aborted: requests whose client went away, or that were told to stop.
        inter_token: time between tokens, seconds.
        requests: HTTP requests by route and method.
        responses: HTTP responses by route, method and status.
    """

    def __init__(self) -> None:
        self.traffic = {False: Traffic(), True: Traffic()}
        self.cached_tokens = 0
        self.computed_tokens = 0
        self.aborted = 0
        self.inter_token = Histogram(INTER_TOKEN_BOUNDS)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.responses: Counter[tuple[str, str, int]] = Counter()

    def ended(self, task: Task, *, stream: bool) -> None:
        """Count a request that is over."""
        if task.first_token is None or task.ended is None:
            return
        traffic = self.traffic[stream]
        traffic.requests += 1
        traffic.prompt_tokens += len(task.prompt)
        traffic.generated_tokens += task.generated
        self.cached_tokens += task.cached
        self.computed_tokens += len(task.prompt) - task.cached
        traffic.first_token.observe(task.first_token - task.arrived)
        traffic.latency.observe(task.ended - task.arrived)
        if task.generated > 1:
            gap = (task.ended - task.first_token) / (task.generated - 1)
            self.inter_token.observe(gap, task.generated - 1)
