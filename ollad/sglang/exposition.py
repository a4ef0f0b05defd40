"""Reader of the ``/metrics`` page of an SGLang server, for the few series that ollad uses.

A page has some hundred kilobytes, mostly histogram buckets, so only lines that begin with a
wanted name are looked at; what is malformed is passed over.

Two spellings name the engine's own series: ``sglang:x`` and, in OpenMetrics with escaping,
``sglang_x``. A server that speaks the API page has the page's series besides; those are kept
apart, see ``PAGE_SERIES``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ollad.sglang import values

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PAGE_SERIES", "Exposition", "Sample", "parse"]

PAGE_SERIES: Final = frozenset(
    {
        "num_requests_running",
        "num_requests_waiting",
        "radix_cache_usage_perc",
        "radix_cache_hit_rate",
        "spec_decode_num_accepted_tokens_total",
    }
)
"""The API page's series that are single numbers, without the prefix ``sglang_``."""

_ENGINE_SERIES: Final = frozenset(
    {
        "cached_tokens_total",
        "generation_tokens_total",
        "kv_cache_memory_usage_gb",
        "kv_evictable_tokens",
        "kv_used_tokens",
        "max_total_num_tokens",
        "num_grammar_queue_reqs",
        "num_queue_reqs",
        "num_requests_total",
        "num_retracted_reqs",
        "num_running_reqs",
        "prompt_tokens_total",
        "realtime_tokens_total",
        "spec_verify_calls_total",
        "token_usage",
    }
)
_NAMES = "|".join(sorted(PAGE_SERIES | _ENGINE_SERIES))
_LINE: Final = re.compile(rf"\nsglang([:_])({_NAMES})(?:[ \t]*\{{([^\n]*)\}})?[ \t]+(\S+)".encode())
_LABEL: Final = re.compile(rb'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\\n]|\\.)*)"')
_RANKS: Final = ("pp_rank", "tp_rank", "moe_ep_rank")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: its labels, as written, and its finite value."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Exposition:
    """The wanted series of one page.

    Attributes:
        engine: the engine's own series by name without prefix.
        page: the API page's own series by name without prefix, if the server has them.
    """

    engine: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    page: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float | None:
        """Sum of a count over data-parallel ranks and whatever else splits it; None if absent.

        Args:
            name: the engine's series, without prefix.
            labels: labels that a sample must carry to be counted.
        """
        samples = [
            sample
            for sample in _logical(name, self.engine.get(name, ()))
            if all(sample.labels.get(key) == value for key, value in labels.items())
        ]
        return math.fsum(sample.value for sample in samples) if samples else None

    def mean(self, name: str) -> float | None:
        """Mean of a ratio over data-parallel ranks; None if absent."""
        return _mean(_logical(name, self.engine.get(name, ())))

    def own(self, name: str) -> float | None:
        """The API page's own series ``name``: counts summed, ratios averaged; None if absent."""
        samples = self.page.get(name, ())
        if name.startswith("radix_cache_"):
            return _mean(samples)
        return math.fsum(sample.value for sample in samples) if samples else None

    def pids(self) -> frozenset[str]:
        """Process ids that the page names (SGLang labels ``num_retracted_reqs`` with them)."""
        samples = self.engine.get("num_retracted_reqs", ())
        return frozenset(sample.labels["pid"] for sample in samples if "pid" in sample.labels)


def parse(page: bytes) -> Exposition:
    """Read a page in Prometheus text format or OpenMetrics; never raises."""
    engine: dict[str, list[Sample]] = {}
    own: dict[str, list[Sample]] = {}
    for separator, raw_name, labels, raw_value in _LINE.findall(b"\n" + page):
        value = _value(raw_value)
        if value is None:
            continue
        name = raw_name.decode()
        if name in _ENGINE_SERIES:
            engine.setdefault(name, []).append(Sample(_labels(labels), value))
        elif separator == b"_":
            own.setdefault(name, []).append(Sample(_labels(labels), value))
    return Exposition(
        engine={name: tuple(samples) for name, samples in engine.items()},
        page={name: tuple(samples) for name, samples in own.items()},
    )


def _value(raw: bytes) -> float | None:
    try:
        return values.number(float(raw))
    except ValueError:
        return None


def _labels(raw: bytes) -> Mapping[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in _LABEL.findall(raw)}


def _mean(samples: tuple[Sample, ...] | list[Sample]) -> float | None:
    return math.fsum(s.value for s in samples) / len(samples) if samples else None


def _logical(name: str, samples: tuple[Sample, ...]) -> list[Sample]:
    """Leave one sample for each value that several processes export.

    With ``--enable-metrics-for-all-schedulers`` each tensor-parallel rank exports the same value;
    the lowest rank speaks for its data-parallel rank (under data-parallel attention that is not
    rank 0). With priority scheduling a gauge has its total under ``priority=""`` beside the
    parts (SGLang ``observability/metrics_collector.py``, ``_log_gauge_queue_count``); counters
    have only the parts.
    """
    if not name.endswith("_total") and any(not s.labels.get("priority") for s in samples):
        samples = tuple(s for s in samples if not s.labels.get("priority"))
    lowest: dict[frozenset[tuple[str, str]], tuple[tuple[int, ...], Sample]] = {}
    for sample in samples:
        key = frozenset(
            (label, value)
            for label, value in sample.labels.items()
            if label not in _RANKS and label != "pid"
        )
        rank = tuple(_rank(sample.labels.get(label)) for label in _RANKS)
        if key not in lowest or rank < lowest[key][0]:
            lowest[key] = (rank, sample)
    return [sample for _, sample in lowest.values()]


def _rank(value: str | None) -> int:
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 9 else 0
