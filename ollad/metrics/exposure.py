"""Shows a telemetry's registry on the page that prometheus-async serves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from ollad.metrics.telemetry import Telemetry

__all__ = ["exposed"]


class _Guest:
    """A collector that names nothing beforehand, so that it clashes with no other."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._collector.collect()


@contextlib.contextmanager
def exposed(telemetry: Telemetry) -> Iterator[None]:
    """Make ``telemetry`` part of the global registry for the length of the block.

    ``prometheus_async.aio.web.server_stats`` serves the global registry and no other, and it
    never suspends: registered around that one call, each daemon of a process shows its own
    figures and no other's, beside the process metrics that live there anyway.
    """
    guest = _Guest(telemetry.registry)
    REGISTRY.register(guest)
    try:
        yield
    finally:
        REGISTRY.unregister(guest)
