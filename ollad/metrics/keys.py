"""What clients' keys have used, read when Prometheus asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from ollad.auth import Meter

__all__ = ["KeyCollector"]

_LABELS = ("key",)


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
        requests = CounterMetricFamily("ollad_key_requests", "Requests let in.", labels=_LABELS)
        refused = CounterMetricFamily(
            "ollad_key_requests_refused",
            "Requests turned away because the key was at one of its limits.",
            labels=_LABELS,
        )
        tokens = CounterMetricFamily(
            "ollad_key_tokens",
            "Tokens counted against the key, as far as backends told them.",
            labels=("key", "kind"),
        )
        active = GaugeMetricFamily(
            "ollad_key_requests_in_flight", "Requests under way.", labels=_LABELS
        )
        for name, meter in meters.items():
            requests.add_metric((name,), meter.admitted)
            refused.add_metric((name,), meter.refused)
            tokens.add_metric((name, "prompt"), meter.prompt_tokens)
            tokens.add_metric((name, "completion"), meter.completion_tokens)
            active.add_metric((name,), meter.active)
        yield from (requests, refused, tokens, active)
