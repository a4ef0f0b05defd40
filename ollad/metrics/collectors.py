"""Figures that are read when Prometheus asks, not counted as they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ollad.backends.backend import DRAINING
from ollad.backends.snapshot import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from ollad.auth import Meter
    from ollad.backends.backend import Backend

__all__ = ["BackendCollector", "DroppedLinesCollector", "KeyCollector"]

_LABELS = ("backend",)


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


class KeyCollector:
    """What each client's key has used; nothing without keys.

    Args:
        meters: gives the present keys' meters by name.
    """

    def __init__(self, meters: Callable[[], Mapping[str, Meter]]) -> None:
        self._meters = meters

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are this collector's alone."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read every meter once."""
        meters = self._meters()
        if not meters:
            return
        requests = CounterMetricFamily(
            "ollad_key_requests", "Requests let in by key.", labels=("key",)
        )
        refused = CounterMetricFamily(
            "ollad_key_requests_refused",
            "Requests turned away because the key was at one of its limits.",
            labels=("key",),
        )
        tokens = CounterMetricFamily(
            "ollad_key_tokens",
            "Tokens counted against the key, as far as backends told them.",
            labels=("key", "kind"),
        )
        active = GaugeMetricFamily(
            "ollad_key_requests_in_flight", "Requests under way by key.", labels=("key",)
        )
        for name, meter in meters.items():
            requests.add_metric((name,), meter.admitted)
            refused.add_metric((name,), meter.refused)
            tokens.add_metric((name, "prompt"), meter.prompt_tokens)
            tokens.add_metric((name, "completion"), meter.completion_tokens)
            active.add_metric((name,), meter.active)
        yield from (requests, refused, tokens, active)


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
