"""A histogram for figures that are taken per event of a stream.

prometheus_client's takes a lock for each bucket and checks each value's labels; on one event loop
there is nobody to lock out. Exposition stays the library's.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

__all__ = ["Histogram", "Observations"]


class Observations:
    """What was observed under one set of labels; used on one event loop only.

    Attributes:
        bounds: upper bounds of the buckets, without infinity.
        counts: how many values each bucket has got, infinity's last.
        total: the sum of all values.
    """

    __slots__ = ("_above", "_bucket", "_upto", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._bucket = 0  # of the last value, as the next one is mostly like it
        self._above = self._upto = 0.0  # between which its values are
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count ``value`` in the first bucket whose upper bound is not below it."""
        if not self._above < value <= self._upto:
            self._find(value)
        self.counts[self._bucket] += 1
        self.total += value

    def _find(self, value: float) -> None:
        bounds = self.bounds
        bucket = self._bucket = bisect_left(bounds, value)
        self._above = bounds[bucket - 1] if bucket else float("-inf")
        self._upto = bounds[bucket] if bucket < len(bounds) else float("inf")


class Histogram:
    """A Prometheus histogram with labels.

    Args:
        name: of the metric.
        documentation: its HELP text.
        labels: their names.
        buckets: upper bounds in rising order, without infinity.
        registry: where it is exposed.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = tuple(float(bound) for bound in buckets)
        self._children: dict[tuple[str, ...], Observations] = {}
        registry.register(self)

    def labels(self, *values: str) -> Observations:
        """What was observed under these values of the labels."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Observations(self._bounds)
        return child

    def remove(self, *values: str) -> None:
        """Forget what was observed under these values of the labels."""
        self._children.pop(values, None)

    def describe(self) -> Iterable[Metric]:
        """The metric without samples, so that its name is taken."""
        return (self._family(),)

    def collect(self) -> Iterable[Metric]:
        """The metric with all samples."""
        family = self._family()
        bounds = [_text(bound) for bound in (*self._bounds, float("inf"))]
        for values, child in self._children.items():
            counts = accumulate(child.counts)
            family.add_metric(values, list(zip(bounds, counts, strict=True)), child.total)
        return (family,)

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._labels)


def _text(bound: float) -> str:
    """A bucket's bound as the library writes it."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
