"""Counters and gauges for what every request counts.

prometheus_client's take a lock and check their labels each time; on one event loop there is nobody
to lock out. Exposition stays the library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

__all__ = ["Count", "Counter", "Gauge"]


class Count:
    """What was counted under one set of labels; used on one event loop only.

    Attributes:
        value: the count, to be added to.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    """A Prometheus counter with labels.

    Args:
        name: of the metric.
        documentation: its HELP text.
        labels: their names.
        registry: where it is exposed.
    """

    _family: type[CounterMetricFamily | GaugeMetricFamily] = CounterMetricFamily

    def __init__(
        self, name: str, documentation: str, labels: tuple[str, ...], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._children: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """What was counted under these values of the labels."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Count()
        return child

    def remove(self, *values: str) -> None:
        """Forget what was counted under these values of the labels."""
        self._children.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """The metric without samples, so that its name is taken."""
        return (self._family(self._name, self._documentation, labels=self._labels),)

    def collect(self) -> Iterable[Metric]:
        """The metric with all samples."""
        family = self._family(self._name, self._documentation, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        return (family,)


class Gauge(Counter):
    """A Prometheus gauge with labels; arguments as those of ``Counter``."""

    _family = GaugeMetricFamily
