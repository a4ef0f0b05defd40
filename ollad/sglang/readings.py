"""What a server process is, read from the replies that describe it.

Pure functions from parsed JSON to values. A field of the wrong type or none at all becomes None,
a reply of the wrong shape None as a whole; nothing raises. Written against the replies of
SGLang 0.4.6 to 0.5.23.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ollad.backends.snapshot import Engine, ModelCard
from ollad.sglang import values
from ollad.sglang.probes import PAGE_ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollad.config.schema import ModelFilter

__all__ = [
    "ServerInfo",
    "engine",
    "model_cards",
    "model_info",
    "native_routes",
    "offered",
    "page_health",
    "server_info",
]

_PAGE_HEALTH_FIELDS = frozenset(
    {
        "model_loaded",
        "num_requests_running",
        "num_requests_waiting",
        "radix_cache_ready",
        "radix_cache_usage_perc",
        "speculative_decoding_enabled",
    }
)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What is kept of ``/server_info``; the reply also carries the server's keys, they are not.

    Attributes:
        version: SGLang's version.
        fingerprint: differs between two starts of a server.
        radix_cache: whether prefixes are cached; None for embedding servers, where the flag
            alone does not tell.
        speculative: whether a speculative algorithm is set.
        cache_report: whether usage carries cached tokens.
        embedding: whether it was started for embeddings.
        kv_copies: ranks that each hold one part of a replica's KV cache.
        kv_tokens: capacity of the KV cache, tokens.
        kv_gb: size of one rank's part of the KV cache, summed over replicas, GiB.
    """

    version: str | None = None
    fingerprint: str | None = None
    radix_cache: bool | None = None
    speculative: bool | None = None
    cache_report: bool | None = None
    embedding: bool | None = None
    kv_copies: int = 1
    kv_tokens: int | None = None
    kv_gb: float | None = None


def server_info(reply: object) -> ServerInfo | None:
    """Read ``/server_info`` or ``/get_server_info``; None if it is no object."""
    if not isinstance(reply, Mapping):
        return None
    states = values.items(reply.get("internal_states"))
    replicas = values.count(reply.get("dp_size")) or 1
    capacity = values.count(reply.get("max_total_num_tokens"))
    sizes = [
        size
        for state in states
        if (size := values.number(values.mapping(state.get("memory_usage")).get("kvcache")))
        and size > 0
    ]
    return ServerInfo(
        version=values.text(reply.get("version")),
        fingerprint=_fingerprint(reply),
        radix_cache=_radix_cache(reply),
        speculative=_speculative(reply),
        cache_report=values.boolean(reply.get("enable_cache_report")),
        embedding=values.boolean(reply.get("is_embedding")),
        kv_copies=_kv_copies(reply, replicas),
        kv_tokens=capacity * replicas if capacity else None,
        kv_gb=sum(sizes) if sizes else None,
    )


def model_info(reply: object) -> Mapping[str, Any] | None:
    """Read ``/model_info`` or ``/get_model_info``; None if it is no such object."""
    if isinstance(reply, Mapping) and values.text(reply.get("model_path")):
        return dict(reply)
    return None


def native_routes(reply: object) -> frozenset[str] | None:
    """The API page's own routes that ``/openapi.json`` lists; None if it is no route list."""
    paths = reply.get("paths") if isinstance(reply, Mapping) else None
    if not isinstance(paths, Mapping):
        return None
    return frozenset(route for route in PAGE_ROUTES if "post" in values.mapping(paths.get(route)))


def model_cards(reply: object) -> tuple[ModelCard, ...] | None:
    """Every model of a ``/v1/models`` reply, once; None if it is no model list."""
    if not isinstance(reply, Mapping) or not isinstance(reply.get("data"), list):
        return None
    cards: dict[str, ModelCard] = {}
    for raw in values.items(reply["data"]):
        if (name := values.text(raw.get("id"))) is not None:
            cards.setdefault(name, ModelCard(name, dict(raw), values.text(raw.get("parent"))))
    return tuple(cards.values())


def offered(cards: Iterable[ModelCard], models: ModelFilter) -> tuple[ModelCard, ...]:
    """The cards that ``endpoints[].models`` lets through; ``exclude`` beats ``include``."""
    include = _patterns(models.include or ("*",))
    exclude = _patterns(models.exclude)
    return tuple(
        card
        for card in cards
        if any(p.fullmatch(card.id) for p in include)
        and not any(p.fullmatch(card.id) for p in exclude)
    )


def page_health(reply: object) -> Mapping[str, Any] | None:
    """A ``/health`` document in the API page's shape, as it is; None for anything else."""
    if not isinstance(reply, Mapping) or values.text(reply.get("status")) is None:
        return None
    return dict(reply) if _PAGE_HEALTH_FIELDS & reply.keys() else None


def engine(
    server: ServerInfo | None,
    model: Mapping[str, Any] | None,
    *,
    incarnation: str | None,
    version: str | None = None,
    speculative: bool | None = None,
    routes: frozenset[str] | None = None,
    metrics: bool | None = None,
) -> Engine:
    """Put together what is known of a process.

    Args:
        server: its ``/server_info``, if known.
        model: its ``/model_info``, if known.
        incarnation: see ``Engine``.
        version: its version by another source, for when ``server`` has none.
        speculative: whether another source shows speculative decoding, likewise.
        routes: see ``Engine.native_routes``.
        metrics: see ``Engine.metrics``.
    """
    server = server or ServerInfo()
    facts: Mapping[str, Any] = model or {}
    generation = values.boolean(facts.get("is_generation"))
    if generation is None and server.embedding is not None:
        generation = not server.embedding
    cache = values.mapping(values.mapping(facts.get("embedding")).get("cache"))
    disabled = values.boolean(cache.get("radix_cache_disabled"))
    radix_cache = server.radix_cache
    if disabled is not None and radix_cache is not False:
        radix_cache = not disabled
    return Engine(
        version=server.version or version,
        incarnation=incarnation,
        radix_cache=radix_cache,
        speculative=speculative if server.speculative is None else server.speculative,
        cache_report=server.cache_report,
        image_understanding=values.boolean(facts.get("has_image_understanding")),
        audio_understanding=values.boolean(facts.get("has_audio_understanding")),
        generation=generation,
        native_routes=routes,
        metrics=metrics,
        model_info=model,
    )


def _fingerprint(reply: Mapping[Any, Any]) -> str | None:
    """Start-up timings and the seed, which is drawn anew unless it was given."""
    startup = reply.get("startup_time")
    parts = {
        "startup_time": startup if isinstance(startup, (Mapping, int, float, str)) else None,
        "random_seed": values.number(reply.get("random_seed")),
    }
    known = [f"{name}={value}" for name, value in parts.items() if value is not None]
    return " ".join(known) or None


def _radix_cache(reply: Mapping[Any, Any]) -> bool | None:
    disabled = values.boolean(reply.get("disable_radix_cache"))
    if disabled or values.boolean(reply.get("prefill_only_disable_kv_cache")):
        return False
    if disabled is None or values.boolean(reply.get("is_embedding")):
        return None
    return True


def _speculative(reply: Mapping[Any, Any]) -> bool | None:
    if "speculative_algorithm" not in reply:
        return None
    algorithm = reply["speculative_algorithm"]
    if algorithm is None:
        return False
    name = values.text(algorithm)
    return None if name is None else name.upper() != "NONE"


def _kv_copies(reply: Mapping[Any, Any], replicas: int) -> int:
    """Under data-parallel attention the tensor-parallel ranks are shared out among replicas."""
    ranks = values.count(reply.get("tp_size")) or 1
    if values.boolean(reply.get("enable_dp_attention")):
        ranks = max(1, ranks // replicas)
    return ranks * (values.count(reply.get("pp_size")) or 1)


def _patterns(globs: Iterable[str]) -> list[re.Pattern[str]]:
    """Only ``*`` is special: model names contain brackets and question marks in earnest."""
    return [
        re.compile(".*".join(re.escape(part) for part in glob.split("*")), re.DOTALL)
        for glob in globs
    ]
