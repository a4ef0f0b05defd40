"""What SGLang tells about a generation (``meta_info`` of TokenizerManager, ``metadata``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ollad.simulator.engine import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.simulator.generations import Generation
    from ollad.simulator.service import Service

__all__ = ["cached_details", "finish_reason", "meta_info", "metadata"]


def metadata(items: Sequence[Generation]) -> dict[str, Any]:
    """The ``metadata`` of a reply."""
    return {"weight_version": "default", "weight_versions": _versions(items[0])}


def cached_details(item: Generation) -> dict[str, int] | None:
    """Where the cached tokens lay; None if there were none."""
    return {"device": item.task.cached, "host": 0} if item.task.cached else None


def finish_reason(item: Generation) -> dict[str, Any] | None:
    """Why a generation ended, None while it has not."""
    if not item.over:
        return None
    if item.task.phase is Phase.ABORTED:
        return {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None}
    if item.matched is not None:
        return {"type": "stop", "matched": item.matched}
    return {"type": "length", "length": item.count}


def meta_info(service: Service, item: Generation, *, first: bool = False) -> dict[str, Any]:
    """The ``meta_info`` of a generation, as far as it is.

    Args:
        service: which generates.
        item: what.
        first: whether nothing was sent of it before.
    """
    task = item.task
    meta: dict[str, Any] = {
        "id": item.rid,
        "finish_reason": finish_reason(item),
        "prompt_tokens": len(task.prompt),
        "weight_version": "default",
        "num_retractions": 0,
    }
    timed = service.options.metrics and task.started is not None and task.first_token is not None
    if timed and task.started is not None and task.first_token is not None:
        meta |= {
            "storage_prefetch_wait": 0.0,
            "storage_staging_wait": 0.0,
            "forward_entry_time": service.wall(task.started),
            "prefill_finished_time": service.wall(task.first_token),
            "queue_time": task.started - task.arrived,
        }
    meta |= {
        "reasoning_tokens": 0,
        "completion_tokens": item.count,
        "cached_tokens": task.cached,
    }
    if item.over:
        meta["weight_versions"] = _versions(item)
    meta |= {"cached_tokens_details": cached_details(item), "dp_rank": None}
    if item.over:
        meta |= _ending(service, item, timed=timed)
    if first or (item.over and service.options.metrics):
        meta["response_sent_to_client_ts"] = time.time()
    return meta


def _ending(service: Service, item: Generation, *, timed: bool) -> dict[str, Any]:
    task = item.task
    ended = service.driver.now() if task.ended is None else task.ended
    figures: dict[str, Any] = {"e2e_latency": ended - task.arrived}
    if timed and task.first_token is not None:
        figures |= {
            "request_received_ts": service.wall(task.arrived),
            "first_token_latency": task.first_token - task.arrived,
            "api_server_dispatch_finish_ts": service.wall(task.arrived),
            "request_finished_ts": service.wall(ended),
        }
        if item.count > 1 and ended > task.first_token:
            figures["decode_throughput"] = (item.count - 1) / (ended - task.first_token)
    return figures


def _versions(item: Generation) -> list[dict[str, Any]]:
    return [{"version": "default", "start": 0, "end": item.count}]
