"""What the health task last saw of a backend, as one immutable value.

Only the health task makes snapshots; handlers, the picker and the metrics read the last one.
A field nobody could find out is None, never a guess.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Engine", "Load", "ModelCard", "Snapshot", "State"]


class State(enum.StrEnum):
    """Whether a backend takes requests, and if not, why."""

    UNKNOWN = "unknown"
    """Not probed yet."""
    STARTING = "starting"
    """Answers, but says it is not ready (model loading, warm-up, shutting down)."""
    DOWN = "down"
    """Failed ``health.fall`` rounds in a row, or refuses connections."""
    RECOVERING = "recovering"
    """Back after having been out; its weight is still growing."""
    HEALTHY = "healthy"

    @property
    def routable(self) -> bool:
        """Whether requests may be sent there."""
        return self in (State.RECOVERING, State.HEALTHY)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of the backend's model list.

    Attributes:
        id: the name requests use.
        raw: the card exactly as the backend gave it.
        parent: the base model of an adapter, or None.
    """

    id: str
    raw: Mapping[str, Any]
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What a server process is: fixed from its start to its end.

    Attributes:
        version: SGLang's version, such as ``0.5.23``.
        incarnation: something that differs after a restart (start-up time, process id, …).
        radix_cache: whether prefixes are cached.
        speculative: whether speculative decoding is on.
        cache_report: whether chat usage carries cached tokens (``--enable-cache-report``).
        image_understanding: whether the model takes images.
        audio_understanding: whether the model takes sound.
        generation: whether it generates (False: an embedding or reward server).
        native_routes: the page's routes that SGLang lacks but this server has; None when its
            route list could not be read.
        metrics: whether it has a ``/metrics`` page (``--enable-metrics``).
        model_info: the reply of ``/model_info`` (or ``/get_model_info``).
    """

    version: str | None = None
    incarnation: str | None = None
    radix_cache: bool | None = None
    speculative: bool | None = None
    cache_report: bool | None = None
    image_understanding: bool | None = None
    audio_understanding: bool | None = None
    generation: bool | None = None
    native_routes: frozenset[str] | None = None
    metrics: bool | None = None
    model_info: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a server is, summed over its data-parallel ranks.

    Attributes:
        running: requests being decoded.
        waiting: requests queued.
        waiting_uncached_tokens: prompt tokens queued that are not cached.
        token_usage: share of the KV cache that running requests pin, 0..1.
        radix_usage: share of the KV cache in use, evictable prefixes included, 0..1.
        hit_rate: share of prompt tokens found in the radix cache lately, 0..1.
        kv_tokens: capacity of the KV cache, tokens.
        kv_bytes: size of the KV cache over all ranks, bytes.
        spec_accepted_tokens: speculative tokens accepted, never decreasing.
    """

    running: int | None = None
    waiting: int | None = None
    waiting_uncached_tokens: int | None = None
    token_usage: float | None = None
    radix_usage: float | None = None
    hit_rate: float | None = None
    kv_tokens: int | None = None
    kv_bytes: int | None = None
    spec_accepted_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last round of probes.

    Attributes:
        state: whether it takes requests.
        reason: why it is in that state, for operators; holds no secret.
        since: wall-clock time of the last change of state, Unix seconds.
        weight: 0..1, what the picker divides by (design: priority share x headroom x state).
        checked: wall-clock time of this round, Unix seconds; None before the first.
        failures: failed rounds in a row.
        engine: what the process is.
        load: how busy it is.
        models: what it serves, after ``endpoints[].models`` filtering.
        native_health: the backend's own page-shaped ``/health`` document, if it has one.
        native_metrics: the backend's own ``sglang_…`` series by name, if it has them.
    """

    state: State = State.UNKNOWN
    reason: str = "not probed yet"
    since: float = 0.0
    weight: float = 0.0
    checked: float | None = None
    failures: int = 0
    engine: Engine = Engine()
    load: Load = Load()
    models: tuple[ModelCard, ...] = ()
    native_health: Mapping[str, Any] | None = None
    native_metrics: Mapping[str, float] | None = None

    @property
    def model_ids(self) -> tuple[str, ...]:
        """The names of the models it serves."""
        return tuple(card.id for card in self.models)
