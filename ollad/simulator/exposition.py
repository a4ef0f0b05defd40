"""``/metrics`` as SGLang 0.5.23 prints it.

The text format keeps the colon of its names. In OpenMetrics the client library replaces it in
sample names, leaves it in ``HELP`` and ``TYPE``, and takes ``_total`` off the names of counters
there (prometheus_client, multiprocess mode; labels are sorted by name).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ollad.simulator.engine import EngineConfig, Usage
    from ollad.simulator.statistics import Histogram, Statistics

__all__ = ["Family", "families", "kv_gigabytes", "render"]

_Labels = dict[str, str]
_RANK: Final = {"moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}


@dataclass(frozen=True, slots=True)
class Family:
    """One family; samples are (suffix, labels, value)."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[str, _Labels, float], ...]


def render(page: Iterable[Family], *, openmetrics: bool) -> str:
    """The page as text; a family without samples is left out, as the client library does."""
    lines: list[str] = []
    for family in page:
        if not family.samples:
            continue
        title = f"sglang:{family.name}"
        if openmetrics and family.kind == "counter":
            title = title.removesuffix("_total")
        lines += [f"# HELP {title} {family.help}", f"# TYPE {title} {family.kind}"]
        prefix = "sglang_" if openmetrics else "sglang:"
        for suffix, labels, value in family.samples:
            pairs = ",".join(f'{name}="{_escaped(labels[name])}"' for name in sorted(labels))
            braces = f"{{{pairs}}}" if pairs else ""
            lines.append(f"{prefix}{family.name}{suffix}{braces} {_number(value)}")
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def families(
    config: EngineConfig, usage: Usage, statistics: Statistics, *, model: str, context_length: int
) -> Iterator[Family]:
    """The families that tell of load, cache and traffic."""
    base = {"engine_type": "unified", "model_name": model}
    yield from _scheduler(usage, statistics, base | _RANK)
    yield from _tokenizer(statistics, base)
    yield from _gauges(config, usage, base | _RANK, context_length)


def _scheduler(usage: Usage, statistics: Statistics, labels: _Labels) -> Iterator[Family]:
    yield _counter(
        "realtime_tokens_total",
        "Total number of tokens processed (updated on each log interval). "
        "mode: prefill_compute, prefill_cache, decode.",
        (labels | {"mode": "prefill_compute"}, usage.prefilled),
        (labels | {"mode": "decode"}, usage.decoded),
        (labels | {"mode": "prefill_cache"}, statistics.cached_tokens),
    )


def _tokenizer(statistics: Statistics, labels: _Labels) -> Iterator[Family]:
    yield _counter(
        "http_requests_total",
        "Total number of HTTP requests by endpoint and method",
        *(
            ({"endpoint": route, "method": method}, count)
            for (route, method), count in statistics.requests.items()
        ),
    )
    yield _counter(
        "http_responses_total",
        "Total number of HTTP responses by endpoint and status code",
        *(
            ({"endpoint": route, "method": method, "status_code": str(status)}, count)
            for (route, method, status), count in statistics.responses.items()
        ),
    )
    by_stream = [
        (labels | {"is_streaming": str(stream).lower()}, traffic)
        for stream, traffic in statistics.traffic.items()
        if traffic.requests
    ]
    yield _counter(
        "prompt_tokens_total",
        "Number of prefill tokens processed.",
        *((where, traffic.prompt_tokens) for where, traffic in by_stream),
    )
    yield _counter(
        "generation_tokens_total",
        "Number of generation tokens processed.",
        *((where, traffic.generated_tokens) for where, traffic in by_stream),
    )
    yield _counter(
        "num_requests_total",
        "Number of requests processed.",
        *((where, traffic.requests) for where, traffic in by_stream),
    )
    cached, aborted = statistics.cached_tokens, statistics.aborted
    yield _counter(
        "cached_tokens_total",
        "Number of cached prompt tokens by source (device/host/storage).",
        *([(labels | {"cache_source": "device"}, cached)] if cached else []),
    )
    yield _counter(
        "num_aborted_requests_total",
        "Number of requests aborted.",
        *([(labels, aborted)] if aborted else []),
    )
    yield _histogram(
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        *((where, traffic.first_token) for where, traffic in by_stream),
    )
    yield _histogram(
        "e2e_request_latency_seconds",
        "Histogram of End-to-end request latency in seconds",
        *((where, traffic.latency) for where, traffic in by_stream),
    )
    yield _histogram(
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        (labels, statistics.inter_token),
    )


def _gauges(
    config: EngineConfig, usage: Usage, labels: _Labels, context_length: int
) -> Iterator[Family]:
    total = usage.used + usage.evictable + usage.available
    gauges: tuple[tuple[str, str, float], ...] = (
        ("max_total_num_tokens", "Maximum total number of tokens in the KV cache pool.", total),
        (
            "kv_cache_memory_usage_gb",
            "Memory used by the KV cache pools in GB.",
            kv_gigabytes(total),
        ),
        ("page_size", "KV cache page size in tokens.", config.page_size),
        ("num_pages", "Number of KV cache pages.", total // config.page_size),
        ("context_len", "Maximum context length.", context_length),
        ("num_running_reqs", "The number of running requests.", usage.running),
        ("num_queue_reqs", "The number of requests in the waiting queue.", usage.waiting),
        ("num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", 0),
        ("gen_throughput", "The generation throughput (token/s).", usage.throughput),
        ("cache_hit_rate", "The prefix cache hit rate.", usage.hit_rate),
        ("token_usage", "The token usage.", round(usage.used / total, 2)),
        ("full_token_usage", "The token usage for full attention layers.", usage.used / total),
        ("num_used_tokens", "The number of used tokens.", usage.used),
        (
            "kv_available_tokens",
            "Number of free token slots in the KV cache pool.",
            usage.available,
        ),
        (
            "kv_evictable_tokens",
            "Number of evictable (radix-cached) token slots in the KV cache pool.",
            usage.evictable,
        ),
        ("kv_used_tokens", "Number of actively used token slots in the KV cache pool.", usage.used),
        ("utilization", "The utilization.", 0),
    )
    for name, text, value in gauges:
        yield Family(name, "gauge", text, (("", labels, value),))


def kv_gigabytes(tokens: int) -> float:
    """KV memory in GiB, at 128 KiB a token: that of an 8B model with grouped queries."""
    return tokens * 128 / 1024**2


def _counter(name: str, text: str, *samples: tuple[_Labels, float]) -> Family:
    return Family(name, "counter", text, tuple(("", labels, value) for labels, value in samples))


def _histogram(name: str, text: str, *samples: tuple[_Labels, Histogram]) -> Family:
    lines: list[tuple[str, _Labels, float]] = []
    for labels, histogram in samples:
        lines.append(("_sum", labels, histogram.sum))
        total = 0
        for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
            total += count
            lines.append(("_bucket", labels | {"le": _number(bound)}, total))
        lines.append(("_count", labels, total))
    return Family(name, "histogram", text, tuple(lines))


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
