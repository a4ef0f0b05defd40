"""The bound children of one metric, kept.

Looking a child up by its labels costs the library more than counting does.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["Children"]

_Child = TypeVar("_Child")
_Made_co = TypeVar("_Made_co", covariant=True)


class _Labelled(Protocol[_Made_co]):
    """A metric that makes a child for each set of labels."""

    def labels(self, *values: str) -> _Made_co: ...

    def remove(self, *values: str) -> None: ...


class Children(dict[tuple[str, ...], _Child], Generic[_Child]):
    """The children of one metric by the values of its labels, made at first use."""

    def __init__(self, metric: _Labelled[_Child], labels: tuple[str, ...]) -> None:
        super().__init__()
        self._metric = metric
        self._labels = labels

    def __missing__(self, values: tuple[str, ...]) -> _Child:
        child = self._metric.labels(*values)
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
