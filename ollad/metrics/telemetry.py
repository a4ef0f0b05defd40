"""What happens to requests, counted as it happens."""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Info

from ollad import __version__
from ollad.metrics.children import Children
from ollad.metrics.collectors import (
    BackendCollector,
    BooksCollector,
    DroppedLinesCollector,
    QueueCollector,
)
from ollad.metrics.counter import Counter, Gauge
from ollad.metrics.histogram import Histogram
from ollad.metrics.keys import KeyCollector
from ollad.metrics.series import PageHistograms, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ollad.auth import Meter
    from ollad.backends.backend import Backend
    from ollad.metrics.counter import Count
    from ollad.metrics.histogram import Observations
    from ollad.record import RequestRecord
    from ollad.routing.policy import Standing
    from ollad.sglang.annotate import Usage

__all__ = ["SERVED", "Telemetry"]

SERVED: Final = "ok"
"""The outcome of an exchange that went well."""

_DURATION_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_FIRST_BYTE_BUCKETS: Final = (
    *(0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 60, 120, 320),
)
_GAP_BUCKETS: Final = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 10),
)
_QUEUE_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
_PROBE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_FIRST_TOKEN_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)

_OTHER: Final = "other"
_MOST_MODELS: Final = 100
"""Models with series of their own; an adapter is a model."""

_CLIENT_GONE: Final = "499"
_CODES: Final = {499: _CLIENT_GONE} | {status.value: str(status.value) for status in HTTPStatus}


class Telemetry:
    """Counts and measures requests.

    Attributes:
        registry: what ``/metrics`` shows.
        page_registry: the histograms of ``/olla/sglang/metrics``.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.page_registry = CollectorRegistry()
        self._pool: Callable[[], Iterable[Backend]] = tuple
        self._all: list[Children[Count] | Children[Observations]] = []
        self._models: set[str] = set()
        self._series: dict[tuple[str, str | None, int, str | None], Series] = {}
        self._page: dict[tuple[str, str], PageHistograms] = {}
        self._declare_requests()
        self._declare_upstream()
        self._declare_reloads()
        self._declare_page()
        Info("ollad_build", "The running ollad.", registry=self.registry).info(
            {"version": __version__, "python": platform.python_version()}
        )

    def _declare_requests(self) -> None:
        self._requests = self._counter(
            "ollad_requests_total",
            "Requests answered; code 499 where the client left before an answer.",
            ("family", "model", "code"),
        )
        self._in_flight = self._gauge(
            "ollad_requests_in_flight", "Requests whose answer has not ended.", ("family",)
        )
        self._duration = self._histogram(
            "ollad_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer.",
            ("family",),
            _DURATION_BUCKETS,
        )
        self._body_in = self._counter(
            "ollad_request_body_bytes_total", "Bytes of request bodies.", ("family",)
        )
        self._body_out = self._counter(
            "ollad_response_body_bytes_total", "Bytes of response bodies.", ("family",)
        )
        self._gap = self._histogram(
            "ollad_stream_chunk_gap_seconds",
            "Time between two events of a stream, as they arrive from the backend.",
            ("family",),
            _GAP_BUCKETS,
        )
        self._aborts = self._counter(
            "ollad_stream_aborts_total",
            "Streams that ended early, by the side that ended them.",
            ("family", "side"),
        )
        self._tokens = self._counter(
            "ollad_tokens_total",
            "Tokens of replies that said how many they were.",
            ("backend", "kind"),
        )

    def _declare_upstream(self) -> None:
        self._attempts = self._counter(
            "ollad_upstream_attempts_total",
            "Exchanges with backends, retries included.",
            ("family", "backend", "outcome"),
        )
        self._first_byte = self._histogram(
            "ollad_upstream_time_to_first_byte_seconds",
            "Time from the start of an exchange to the first byte of the reply's body.",
            ("family", "backend"),
            _FIRST_BYTE_BUCKETS,
        )
        self._retries = self._counter(
            "ollad_retries_total", "Requests sent again, by reason.", ("family", "reason")
        )
        self._exhausted = self._counter(
            "ollad_retries_exhausted_total",
            "Requests that failed with no attempt or backend left.",
            ("family",),
        )
        self._queue_wait = self._histogram(
            "ollad_queue_wait_seconds",
            "Time that requests to backends with a max_concurrent waited for room.",
            ("family",),
            _QUEUE_BUCKETS,
        )
        self._queue_refusals = self._counter(
            "ollad_queue_refusals_total",
            "Requests refused as the queue was full, or as they had waited too long.",
            ("family", "reason"),
        )
        self._ejections = self._counter(
            "ollad_backend_ejections_total",
            "Times that requests were kept away from a backend because they failed there.",
            ("backend",),
        )
        self._checks = self._counter(
            "ollad_health_checks_total", "Rounds of probes, by result.", ("backend", "result")
        )
        self._check_duration = self._histogram(
            "ollad_health_check_duration_seconds",
            "Duration of a round of probes.",
            ("backend",),
            _PROBE_BUCKETS,
        )

    def _declare_reloads(self) -> None:
        self._reloads = self._counter(
            "ollad_config_reloads_total", "Reloads of the configuration, by result.", ("result",)
        )
        self._reload_worked = prometheus_client.Gauge(
            "ollad_config_last_reload_successful",
            "Whether the last reload of the configuration was taken on.",
            registry=self.registry,
        )
        self._reload_time = prometheus_client.Gauge(
            "ollad_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was taken on.",
            registry=self.registry,
        )

    def _declare_page(self) -> None:
        labels = ("model", "endpoint")
        self._page_duration = self._histogram(
            "sglang_request_duration_seconds",
            "Request duration in seconds. Measured by ollad, from the arrival of a request "
            "to the end of its reply.",
            labels,
            _DURATION_BUCKETS,
            page=True,
        )
        self._page_first_token = self._histogram(
            "sglang_time_to_first_token_seconds",
            "Time to first token in seconds. Measured by ollad, from the arrival of a request "
            "to the first byte of a streamed reply.",
            labels,
            _FIRST_TOKEN_BUCKETS,
            page=True,
        )

    def _counter(self, name: str, doc: str, labels: tuple[str, ...]) -> Children[Count]:
        children = Children(Counter(name, doc, labels, registry=self.registry), labels)
        self._all.append(children)
        return children

    def _gauge(self, name: str, doc: str, labels: tuple[str, ...]) -> Children[Count]:
        children = Children(Gauge(name, doc, labels, registry=self.registry), labels)
        self._all.append(children)
        return children

    def _histogram(
        self,
        name: str,
        doc: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...],
        *,
        page: bool = False,
    ) -> Children[Observations]:
        registry = self.page_registry if page else self.registry
        metric = Histogram(name, doc, labels, buckets=buckets, registry=registry)
        children = Children(metric, labels)
        self._all.append(children)
        return children

    def bind_pool(
        self,
        pool: Callable[[], Iterable[Backend]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show the backends that ``pool`` gives; to be called once.

        Args:
            pool: gives the present backends, also the source of the model names that are labels.
            clock: the monotonic seconds that ``Backend.overloaded_until`` is measured in.
        """
        self._pool = pool
        self.registry.register(BackendCollector(pool, clock))

    def bind_queue(self, waiting: Callable[[], Mapping[str | None, int]]) -> None:
        """Show how many requests wait, by model; to be called once."""
        self.registry.register(QueueCollector(waiting))

    def bind_books(self, standings: Callable[[], Mapping[str, Standing]]) -> None:
        """Show what routing keeps of each backend, by name; to be called once."""
        self.registry.register(BooksCollector(standings))

    def bind_keys(self, meters: Callable[[], Mapping[str, Meter]]) -> None:
        """Export what clients' keys have used.

        Args:
            meters: gives the present keys' meters by name.
        """
        self.registry.register(KeyCollector(meters))

    def bind_log(self, dropped: Callable[[], int]) -> None:
        """Show how many log lines were dropped; to be called once."""
        self.registry.register(DroppedLinesCollector(dropped))

    def request_started(self, family: str) -> None:
        """A request has arrived; ``request_finished`` must follow, whatever becomes of it."""
        self._in_flight[family,].value += 1

    def request_finished(self, record: RequestRecord, seconds: float) -> None:
        """Count a request: exactly one in ``ollad_requests_total``.

        Args:
            record: what is known of it; ``family`` as given to ``request_started``.
            seconds: from its arrival to the end of its answer.
        """
        series = self._series.get(
            (record.family, record.served_model, record.status, record.endpoint)
        )
        self._finish(series or self._series_of(record), record, seconds)

    def request_served(
        self, record: RequestRecord, seconds: float, first_byte: float, page: bool
    ) -> None:
        """Count a request that the first backend it was sent to has answered.

        It does in one what ``request_finished``, ``attempt`` with the outcome ``SERVED``,
        ``first_byte`` and the observations of ``page`` do.

        Args:
            record: what is known of it; it has an ``endpoint``.
            seconds: from its arrival to the end of its answer.
            first_byte: seconds from the start of the exchange to its first byte.
            page: whether it is one of those that the page measures.
        """
        family, endpoint = record.family, record.endpoint or ""
        series = self._series.get((family, record.served_model, record.status, record.endpoint))
        if series is None:
            series = self._series_of(record)
        if series.served is None:
            series.served = self._attempts[family, endpoint, SERVED]
        series.served.value += 1
        if series.first_byte is None:
            series.first_byte = self._first_byte[family, endpoint]
        series.first_byte.observe(first_byte)
        if page:
            if series.page is None:
                series.page = self.page(record.served_model or "", endpoint)
            series.page.duration.observe(seconds)
            if record.streamed and record.first_byte is not None:
                series.page.first_token.observe(record.first_byte)
        self._finish(series, record, seconds)

    def _series_of(self, record: RequestRecord) -> Series:
        """The series of a request, at hand for those alike unless there can be any number."""
        family, model, status = record.family, record.served_model, record.status
        label = self._model_label(model)
        series = Series(
            self._in_flight[family,],
            self._requests[family, label, _code(status)],
            self._duration[family,],
        )
        if status in _CODES and (model is None or label is model):
            self._series[family, model, status, record.endpoint] = series
        return series

    def _finish(self, series: Series, record: RequestRecord, seconds: float) -> None:
        series.in_flight.value -= 1
        series.requests.value += 1
        duration = series.duration
        duration.counts[bisect_left(duration.bounds, seconds)] += 1
        duration.total += seconds
        if record.request_bytes:
            if series.body_in is None:
                series.body_in = self._body_in[record.family,]
            series.body_in.value += record.request_bytes
        if record.response_bytes:
            if series.body_out is None:
                series.body_out = self._body_out[record.family,]
            series.body_out.value += record.response_bytes
        if record.usage is not None and record.endpoint is not None:
            self._count_tokens(series, record.endpoint, record.usage)

    def _count_tokens(self, series: Series, backend: str, usage: Usage) -> None:
        if usage.prompt_tokens:
            if series.input is None:
                series.input = self._tokens[backend, "input"]
            series.input.value += usage.prompt_tokens
        if usage.completion_tokens:
            if series.output is None:
                series.output = self._tokens[backend, "output"]
            series.output.value += usage.completion_tokens
        if usage.cached_tokens:
            if series.cached is None:
                series.cached = self._tokens[backend, "cached"]
            series.cached.value += usage.cached_tokens

    def tokens(self, backend: str, usage: Usage) -> None:
        """Count the tokens of one reply of ``backend``."""
        for kind, tokens in (
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
            ("cached", usage.cached_tokens),
        ):
            if tokens:
                self._tokens[backend, kind].value += tokens

    def _model_label(self, model: str | None) -> str:
        """The model if some backend serves it: clients must not be able to make up series.

        Nor can backends, by serving ever new ones: all beyond ``_MOST_MODELS`` are one.
        """
        if model in self._models:
            return model
        if model is None or len(self._models) >= _MOST_MODELS or not self._served(model):
            return _OTHER
        self._models.add(model)
        return model

    def _served(self, model: str) -> bool:
        return any(backend.serves(model) for backend in self._pool())

    def attempt(self, family: str, backend: str, outcome: str) -> None:
        """An exchange with a backend has ended; ``outcome`` is one of a fixed set of words."""
        self._attempts[family, backend, outcome].value += 1

    def first_byte(self, family: str, backend: str, seconds: float) -> None:
        """A backend took ``seconds`` from the start of an exchange to its first byte."""
        self._first_byte[family, backend].observe(seconds)

    def chunk_gaps(self, family: str) -> Observations:
        """Where to count the seconds between two events of a stream."""
        return self._gap[family,]

    def retry(self, family: str, reason: str) -> None:
        """A request is sent again."""
        self._retries[family, reason].value += 1

    def retries_exhausted(self, family: str) -> None:
        """A request that might be sent again is not: no attempt or no backend is left."""
        self._exhausted[family,].value += 1

    def queue_left(self, family: str, seconds: float) -> None:
        """A request got its place after ``seconds``."""
        self._queue_wait[family,].observe(seconds)

    def queue_refusal(self, family: str, reason: str) -> None:
        """A request got no place; ``reason`` is one of a fixed set of words."""
        self._queue_refusals[family, reason].value += 1

    def ejection(self, backend: str) -> None:
        """Requests are kept away from a backend for a while, as they fail there."""
        self._ejections[backend,].value += 1

    def stream_abort(self, family: str, side: str) -> None:
        """A reply under way was cut; ``side`` is client, upstream or shutdown."""
        self._aborts[family, side].value += 1

    def probe(self, backend: str, result: str, seconds: float) -> None:
        """A round of probes took ``seconds``; ``result`` is one of a fixed set of words."""
        self._checks[backend, result].value += 1
        self._check_duration[backend,].observe(seconds)

    def started(self, wall: float) -> None:
        """The first configuration was taken on at Unix time ``wall``."""
        self._reload_worked.set(1)
        self._reload_time.set(wall)

    def reloaded(self, worked: bool, wall: float) -> None:
        """A reload ended at Unix time ``wall``."""
        self._reloads["accepted" if worked else "refused",].value += 1
        self._reload_worked.set(worked)
        if worked:
            self._reload_time.set(wall)

    def page(self, model: str, endpoint: str) -> PageHistograms:
        """The histograms behind ``/olla/sglang/metrics`` of a model that ``endpoint`` serves."""
        histograms = self._page.get((model, endpoint))
        if histograms is None:
            label = self._model_label(model)
            histograms = PageHistograms(
                self._page_duration[label, endpoint], self._page_first_token[label, endpoint]
            )
            if label is model:
                self._page[model, endpoint] = histograms
        return histograms

    def forget_backend(self, name: str) -> None:
        """Remove every series of a backend that is no longer configured."""
        for children in self._all:
            children.forget("backend", name)
            children.forget("endpoint", name)
        for key in [key for key in self._page if key[1] == name]:
            del self._page[key]
        for answered in [answered for answered in self._series if answered[3] == name]:
            del self._series[answered]


def _code(status: int) -> str:
    """The status as a label.

    0, no answer at all, becomes 499, as nginx has it; an unregistered code the x00 of its class
    (RFC 9110 §15).
    """
    if status == 0:
        return _CLIENT_GONE
    return _CODES.get(status) or f"{min(max(status // 100, 1), 5)}00"
