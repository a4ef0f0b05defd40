"""The bound children of one metric, kept.

Looking a child up by its labels costs the library more than counting does.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["Children"]

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Children(dict[tuple[str, ...], _Metric], Generic[_Metric]):
    """The children of one metric by the values of its labels, made at first use."""

    def __init__(self, metric: _Metric, labels: tuple[str, ...]) -> None:
        super().__init__()
        self._metric: _Metric = metric
        self._labels = labels

    def __missing__(self, values: tuple[str, ...]) -> _Metric:
        child: _Metric = self._metric.labels(*values)
        self[values] = child
        return child

    def forget(self, label: str, value: str) -> None:
        """Remove every series whose ``label`` is ``value``; no effect without that label."""
        if label not in self._labels:
            return
        position = self._labels.index(label)
        for values in [values for values in self if values[position] == value]:
            del self[values]
            self._metric.remove(*values)
