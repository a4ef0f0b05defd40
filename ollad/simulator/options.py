"""What can be set about a simulated server."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ollad.simulator.engine import EngineConfig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FailMode", "Options"]


class FailMode(StrEnum):
    """How a request fails that is chosen to.

    Three answer at once: ``STATUS`` with 500, ``UNAVAILABLE`` with 503, ``BUSY`` as if the queue
    were full (503, or the error as an event of a stream). The others break off somewhere in the
    reply: ``RESET`` with a TCP reset, ``TRUNCATE`` with a regular close, ``HANG`` by sending
    nothing more, ``STALL`` likewise but only in streams and after their first event, ``GARBAGE``
    with bytes that are no HTTP, or, after a whole reply, with another one that nobody asked for.
    """

    STATUS = "status"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    RESET = "reset"
    TRUNCATE = "truncate"
    HANG = "hang"
    STALL = "stall"
    GARBAGE = "garbage"


@dataclass(frozen=True, slots=True)
class Options:
    """A simulated server.

    Attributes:
        model: its name, in ``/v1/models`` and as the path of the model.
        host: address to listen on.
        port: TCP port; 0 for one that is free.
        engine: what the engine behind it can do.
        context_length: tokens that prompt and answer can have together.
        health_seconds: how long ``/health`` takes.
        startup_seconds: how long it is not ready at first.
        time_scale: how many times faster than real everything happens.
        embedding: whether it embeds instead of generating (``--is-embedding``).
        vision: whether it understands images.
        image_tokens: prompt tokens an image takes.
        api_key: what clients have to show; None to let everybody in.
        cache_report: whether ``usage`` tells of cached tokens (``--enable-cache-report``).
        metrics: whether there is ``/metrics`` (``--enable-metrics``).
        fail_rate: share of generation requests that fail, 0..1.
        fail_mode: how they do.
        log_requests: JSON lines about every generation request are appended here.
        seed: what chance and the word salad depend on.
    """

    model: str = "simulated-llama"
    host: str = "127.0.0.1"
    port: int = 0
    engine: EngineConfig = field(default_factory=EngineConfig)
    context_length: int = 32_768
    health_seconds: float = 1.0
    startup_seconds: float = 0.0
    time_scale: float = 1.0
    embedding: bool = False
    vision: bool = False
    image_tokens: int = 576
    api_key: str | None = None
    cache_report: bool = True
    metrics: bool = True
    fail_rate: float = 0.0
    fail_mode: FailMode = FailMode.STATUS
    log_requests: Path | None = None
    seed: int = 0
