"""The single-number series of ``GET /olla/sglang/metrics``, from the last snapshots.

Histograms on that page are ollad's own measurements and live in ``ollad.metrics``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ollad.backends.snapshot import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from ollad.backends.backend import Backend
    from ollad.backends.snapshot import Load

__all__ = ["PageCollector", "model_label"]

_SPEC_TOKENS: Final = "sglang_spec_decode_num_accepted_tokens_total"

_RUNNING_HELP: Final = (
    "Number of requests currently running. "
    "The engine's num_running_reqs, summed over its data-parallel ranks."
)
_WAITING_HELP: Final = (
    "Number of requests waiting in queue. "
    "The engine's queued requests, those waiting for a grammar included, summed over its "
    "data-parallel ranks."
)
_USAGE_HELP: Final = (
    "RadixAttention cache usage, 0 to 1. "
    "KV cache tokens used or evictable over all there are; before SGLang 0.5.12 only those that "
    "running requests pin."
)
_HIT_RATE_HELP: Final = (
    "RadixAttention cache hit rate, 0 to 1. "
    "Prompt tokens found in the cache over all prompt tokens, lately."
)
_SPEC_HELP: Final = (
    "Total speculative tokens accepted. "
    "Tokens generated less verification calls and first tokens, carried over restarts."
)

_SERIES: Final[tuple[tuple[str, str, Callable[[Load], float | None]], ...]] = (
    ("sglang_num_requests_running", _RUNNING_HELP, lambda load: load.running),
    ("sglang_num_requests_waiting", _WAITING_HELP, lambda load: load.waiting),
    ("sglang_radix_cache_usage_perc", _USAGE_HELP, lambda load: load.radix_usage),
    ("sglang_radix_cache_hit_rate", _HIT_RATE_HELP, lambda load: load.hit_rate),
    (_SPEC_TOKENS, _SPEC_HELP, lambda load: load.spec_accepted_tokens),
)


class PageCollector:
    """The page's gauges and counter for every backend; what is not known has no sample.

    A backend's own series of the same name is believed first.

    Args:
        backends: the backends to show; those that do not answer have no figures.
    """

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._backends = tuple(
            backend
            for backend in backends
            if backend.snapshot.state not in (State.UNKNOWN, State.DOWN)
        )

    def collect(self) -> Iterator[Metric]:
        """Read every backend's last snapshot."""
        for name, documentation, figure in _SERIES:
            family: GaugeMetricFamily | CounterMetricFamily
            kind = CounterMetricFamily if name == _SPEC_TOKENS else GaugeMetricFamily
            family = kind(name, documentation, labels=("model", "endpoint"))
            for backend in self._backends:
                value = _figure(backend, name, figure)
                if value is not None:
                    family.add_metric((model_label(backend), backend.name), value)
            yield family


def _figure(backend: Backend, name: str, figure: Callable[[Load], float | None]) -> float | None:
    native = backend.snapshot.native_metrics
    if native is not None and name in native:
        return native[name]
    return figure(backend.snapshot.load)


def model_label(backend: Backend) -> str:
    """The base model that a server's figures stand under; empty while it is not known."""
    cards = backend.snapshot.models
    for card in cards:
        if card.parent is None:
            return card.id
    return cards[0].id if cards else ""
