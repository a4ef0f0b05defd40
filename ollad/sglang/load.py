"""How busy a server is, put together from whichever of its replies tell.

Each source yields a ``LoadReport`` with what it knows; ``combined`` takes each figure from the
first source that has it. Nothing raises, whatever the replies hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ollad.backends.snapshot import Load
from ollad.sglang import values
from ollad.sglang.counters import PromptTokens
from ollad.sglang.exposition import PAGE_SERIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollad.sglang.exposition import Exposition
    from ollad.sglang.readings import ServerInfo

__all__ = [
    "LoadReport",
    "accepted_tokens",
    "combined",
    "from_get_load",
    "from_loads",
    "from_metrics",
    "from_page",
    "from_page_health",
    "from_server_info",
    "prompt_tokens",
    "to_load",
]

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What one source tells: the fields of ``Load`` and some that help to fill them.

    Attributes:
        kv_gb: size of one rank's part of the KV cache, summed over replicas, GiB.
        accepted_tokens: the server's own count of accepted speculative tokens.
        speculative: whether it shows figures of speculative decoding.
        version: SGLang's version.
        counters: figures that only a restart makes smaller.
    """

    running: int | None = None
    waiting: int | None = None
    waiting_uncached_tokens: int | None = None
    token_usage: float | None = None
    radix_usage: float | None = None
    hit_rate: float | None = None
    kv_tokens: int | None = None
    kv_gb: float | None = None
    accepted_tokens: int | None = None
    speculative: bool | None = None
    version: str | None = None
    counters: Mapping[str, float] = field(default_factory=dict)


_FIELDS: Final = tuple(f.name for f in dataclasses.fields(LoadReport) if f.name != "counters")


def from_loads(reply: object) -> LoadReport | None:
    """Read ``/v1/loads`` (0.5.9 and later); None if it is no such reply.

    Source: SGLang ``managers/load_snapshot.py``, ``entrypoints/v1_loads.py``.
    """
    ranks = values.items(reply.get("loads")) if isinstance(reply, Mapping) else []
    if not ranks or not isinstance(reply, Mapping):
        return None
    prefilled = _sum(ranks, "total_prefill_uncached_tokens")
    sizes = [values.number(values.mapping(rank.get("memory")).get("kv_cache_gb")) for rank in ranks]
    known = [size for size in sizes if size and size > 0]
    return LoadReport(
        running=_sum(ranks, "num_running_reqs"),
        waiting=_sum(ranks, "num_waiting_reqs"),
        waiting_uncached_tokens=_sum(ranks, "num_waiting_uncached_tokens"),
        token_usage=_weighted_usage(ranks),
        kv_tokens=_sum(ranks, "max_total_num_tokens") or None,
        kv_gb=math.fsum(known) if len(known) == len(ranks) else None,
        speculative=True if any("speculative" in rank for rank in ranks) else None,
        version=values.text(reply.get("version")),
        counters={} if prefilled is None else {f"prefilled over {len(ranks)}": prefilled},
    )


def from_get_load(reply: object) -> LoadReport | None:
    """Read ``/get_load``: a list of ranks (to 0.5.20); None otherwise.

    0.4.10 answers ``{"load": N}`` with N in tokens, which tells nothing about requests.
    """
    ranks = values.items(reply)
    total, waiting = _sum(ranks, "num_reqs"), _sum(ranks, "num_waiting_reqs")
    if total is None:
        return None
    return LoadReport(running=max(0, total - (waiting or 0)), waiting=waiting)


def from_metrics(page: Exposition) -> LoadReport:
    """Read the engine's own series of ``/metrics``."""
    total = page.total("max_total_num_tokens")
    used, evictable = page.total("kv_used_tokens"), page.total("kv_evictable_tokens")
    radix_usage = None
    if total and used is not None and evictable is not None:
        radix_usage = values.fraction((used + evictable) / total)
    waiting = values.count(page.total("num_queue_reqs"))
    if waiting is not None:
        waiting += values.count(page.total("num_grammar_queue_reqs")) or 0
    size = page.total("kv_cache_memory_usage_gb")
    return LoadReport(
        running=values.count(page.total("num_running_reqs")),
        waiting=waiting,
        token_usage=values.fraction(page.mean("token_usage")),
        radix_usage=radix_usage,
        kv_tokens=values.count(total) or None,
        kv_gb=size if size and size > 0 else None,
        counters=_restart_counters(page),
    )


def from_page(page: Exposition) -> tuple[LoadReport, Mapping[str, float] | None]:
    """Read the API page's own series: the report, and the series by full name (None: none)."""
    series = {name: value for name in PAGE_SERIES if (value := page.own(name)) is not None}
    report = LoadReport(
        running=values.count(series.get("num_requests_running")),
        waiting=values.count(series.get("num_requests_waiting")),
        radix_usage=values.fraction(series.get("radix_cache_usage_perc")),
        hit_rate=values.fraction(series.get("radix_cache_hit_rate")),
        accepted_tokens=values.count(series.get("spec_decode_num_accepted_tokens_total")),
    )
    return report, {f"sglang_{name}": value for name, value in series.items()} or None


def from_page_health(document: Mapping[str, Any] | None) -> LoadReport | None:
    """Read the API page's ``/health`` document."""
    if document is None:
        return None
    return LoadReport(
        running=values.count(document.get("num_requests_running")),
        waiting=values.count(document.get("num_requests_waiting")),
        radix_usage=values.fraction(document.get("radix_cache_usage_perc")),
        speculative=values.boolean(document.get("speculative_decoding_enabled")),
    )


def from_server_info(info: ServerInfo | None) -> LoadReport | None:
    """What the description of a server tells about the size of its KV cache."""
    return LoadReport(kv_tokens=info.kv_tokens, kv_gb=info.kv_gb) if info else None


def combined(reports: Iterable[LoadReport | None]) -> LoadReport:
    """Each figure from the first report that has it; counters from all."""
    merged: dict[str, Any] = {}
    counters: dict[str, float] = {}
    for report in reports:
        if report is None:
            continue
        counters.update(report.counters)
        for name in _FIELDS:
            value = getattr(report, name)
            if value is not None:
                merged.setdefault(name, value)
    return LoadReport(**merged, counters=counters)


def prompt_tokens(page: Exposition) -> PromptTokens | None:
    """Prompt tokens by cached or not since the start; None if the page does not tell.

    ``cached_tokens_total`` has no sample before the first hit.
    """
    total = page.total("prompt_tokens_total")
    if total is not None:
        return PromptTokens(page.total("cached_tokens_total") or 0.0, total)
    computed = page.total("realtime_tokens_total", mode="prefill_compute")
    if computed is None:
        return None
    cached = page.total("realtime_tokens_total", mode="prefill_cache") or 0.0
    return PromptTokens(cached, cached + computed)


def accepted_tokens(page: Exposition) -> int | None:
    """Speculative tokens accepted since the start, derived (0.5.15 and later); None if unknown.

    Each verification yields the accepted drafts and one token more, each request's first token
    comes from prefill.
    """
    generated = page.total("generation_tokens_total")
    verified = page.total("spec_verify_calls_total")
    if generated is None or verified is None:
        return None
    return max(0, int(generated - verified - (page.total("num_requests_total") or 0.0)))


def to_load(
    report: LoadReport, *, hit_rate: float | None, accepted: int | None, kv_copies: int
) -> Load:
    """Finish a report.

    Args:
        report: everything the sources tell.
        hit_rate: the windowed rate, used where the server has none of its own.
        accepted: speculative tokens accepted, counted over restarts.
        kv_copies: ranks that each hold one part of a replica's KV cache.
    """
    size = None if report.kv_gb is None else round(report.kv_gb * _GIB * kv_copies)
    # Before 0.5.12 only the pinned share is known: a lower bound of what is in use.
    radix_usage = report.token_usage if report.radix_usage is None else report.radix_usage
    return Load(
        running=report.running,
        waiting=report.waiting,
        waiting_uncached_tokens=report.waiting_uncached_tokens,
        token_usage=report.token_usage,
        radix_usage=radix_usage,
        hit_rate=hit_rate if report.hit_rate is None else report.hit_rate,
        kv_tokens=report.kv_tokens,
        kv_bytes=size,
        spec_accepted_tokens=accepted,
    )


def _sum(ranks: list[Mapping[str, Any]], key: str) -> int | None:
    """Sum over ranks; None unless each of them tells."""
    counts = [values.count(rank.get(key)) for rank in ranks]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _weighted_usage(ranks: list[Mapping[str, Any]]) -> float | None:
    """Mean usage of the ranks by the size of their caches; by rank where a size is missing."""
    usages = [values.fraction(rank.get("token_usage")) for rank in ranks]
    known = [usage for usage in usages if usage is not None]
    if not known or len(known) != len(usages):
        return None
    sizes = [values.count(rank.get("max_total_num_tokens")) or 0 for rank in ranks]
    if not all(sizes):
        return math.fsum(known) / len(known)
    total = sum(sizes)
    return math.fsum(usage * (size / total) for usage, size in zip(known, sizes, strict=True))


def _restart_counters(page: Exposition) -> Mapping[str, float]:
    """Counters of ``/metrics`` that only a restart makes smaller."""
    names = ("generation_tokens_total", "num_requests_total", "prompt_tokens_total")
    counters = {name: value for name in names if (value := page.total(name)) is not None}
    own = page.own("spec_decode_num_accepted_tokens_total")
    return counters if own is None else {**counters, "own accepted tokens": own}
