"""Figures that are read when Prometheus asks, not counted as they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ollad.backends.backend import DRAINING
from ollad.backends.snapshot import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from ollad.backends.backend import Backend
    from ollad.routing.policy import Standing

__all__ = ["BackendCollector", "DroppedLinesCollector", "PlacementCollector"]

_LABELS = ("backend",)

_BOOKS = (
    ("index_blocks", "Prompt blocks believed to be in the backend's radix cache."),
    ("index_bytes", "What these occupy in ollad's memory, estimated."),
    ("pending_tokens", "Tokens sent to the backend that it is believed to have to prefill yet."),
    ("index_confidence_ratio", "How far that is believed, by what the backend reports as cached."),
)


class BackendCollector:
    """The state of each backend; a figure that is not known has no sample.

    Args:
        pool: gives the present backends.
        clock: monotonic seconds.
    """

    def __init__(self, pool: Callable[[], Iterable[Backend]], clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are this collector's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read every backend once."""
        backends = tuple(self._pool())
        now = self._clock()
        yield _gauge(
            "ollad_backend_up",
            "Whether the backend takes requests.",
            ((b, float(b.routable)) for b in backends),
        )
        yield _states(backends)
        yield _gauge(
            "ollad_backend_ejected",
            "Whether requests are kept away because they failed there.",
            ((b, float(not b.breaker.admits(now))) for b in backends),
        )
        yield _gauge(
            "ollad_backend_weight_ratio",
            "Weight of the backend in the choice, overload included; 1 is the most.",
            ((b, b.weight(now)) for b in backends),
        )
        yield _gauge(
            "ollad_backend_requests_in_flight",
            "Requests that ollad has sent there and whose reply has not ended.",
            ((b, b.in_flight) for b in backends),
        )
        yield _gauge(
            "ollad_backend_radix_cache_usage_ratio",
            "Share of the KV cache in use, evictable prefixes included.",
            ((b, b.snapshot.load.radix_usage) for b in backends),
        )
        yield _gauge(
            "ollad_backend_running_requests",
            "Requests that the backend says it is running, whoever sent them.",
            ((b, b.snapshot.load.running) for b in backends),
        )
        yield _gauge(
            "ollad_backend_queued_requests",
            "Requests that the backend says are waiting, whoever sent them.",
            ((b, b.snapshot.load.waiting) for b in backends),
        )


class PlacementCollector:
    """What routing keeps of each backend, and who waits for one.

    Args:
        standings: gives what the policy keeps, by backend.
        waiting: gives how many requests wait, by model; None stands for those that name none.
    """

    def __init__(
        self,
        standings: Callable[[], Mapping[str, Standing]],
        waiting: Callable[[], Mapping[str | None, int]],
    ) -> None:
        self._standings = standings
        self._waiting = waiting

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are this collector's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the books."""
        blocks, memory, pending, confidence = (
            GaugeMetricFamily(f"ollad_routing_{name}", documentation, labels=_LABELS)
            for name, documentation in _BOOKS
        )
        for name, standing in self._standings().items():
            blocks.add_metric((name,), standing.index_blocks)
            memory.add_metric((name,), standing.index_bytes)
            pending.add_metric((name,), standing.pending_tokens)
            confidence.add_metric((name,), standing.confidence)
        yield from (blocks, memory, pending, confidence)
        queue = GaugeMetricFamily(
            "ollad_queue_requests",
            "Requests that wait because every backend has its max_concurrent.",
            labels=("model",),
        )
        for model, count in self._waiting().items():
            queue.add_metric((model or "",), count)
        yield queue


class DroppedLinesCollector:
    """Log lines that could not be written."""

    def __init__(self, dropped: Callable[[], int]) -> None:
        self._dropped = dropped

    def describe(self) -> Iterable[Metric]:
        """Nothing: the name is this collector's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the count."""
        yield CounterMetricFamily(
            "ollad_log_lines_dropped", "Log lines that could not be written.", value=self._dropped()
        )


def _gauge(
    name: str, documentation: str, values: Iterable[tuple[Backend, float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=_LABELS)
    for backend, value in values:
        if value is not None:
            family.add_metric((backend.name,), value)
    return family


def _states(backends: Iterable[Backend]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "ollad_backend_state",
        "1 for the state the backend is in, 0 for the others.",
        labels=("backend", "state"),
    )
    for backend in backends:
        for state in (*(state.value for state in State), DRAINING):
            family.add_metric((backend.name, state), float(backend.state == state))
    return family
