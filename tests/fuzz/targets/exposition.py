"""Reading a backend's page of metrics."""

from __future__ import annotations

import math
from typing import Final

from ollad.sglang.exposition import PAGE_SERIES, parse

__all__ = ["check_exposition"]

_NAMES: Final = (
    *("num_running_reqs", "num_queue_reqs", "token_usage", "kv_used_tokens"),
    *("num_retracted_reqs", "cached_tokens_total", "realtime_tokens_total"),
)


def check_exposition(data: bytes) -> None:
    """No page breaks the reader, and every figure that it finds is a finite number."""
    page = parse(data)
    figures = [page.own(name) for name in PAGE_SERIES]
    for name in _NAMES:
        figures += [page.total(name), page.total(name, mode="decode"), page.mean(name)]
    assert all(figure is None or math.isfinite(figure) for figure in figures)
    page.pids()
