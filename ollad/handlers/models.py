"""``/olla/sglang/v1/models`` and ``/model_info``, from the last snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ollad.errors import NotFoundError, UnavailableError
from ollad.gateway import GATEWAY
from ollad.record import RECORD
from ollad.responses import json_response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ollad.backends.backend import Backend
    from ollad.backends.snapshot import ModelCard
    from ollad.gateway import Gateway

__all__ = ["CATALOGUE", "ModelCatalogue", "list_models", "model_info", "show_model"]

_LISTED_MODELS: Final = 20


class ModelCatalogue:
    """Keeps the ``created`` that each model was first seen with.

    SGLang answers with the time of the call, so a client that compares two lists would see every
    model change.

    Args:
        limit: most models remembered; past it those no longer served are forgotten.
    """

    __slots__ = ("_created", "_limit")

    def __init__(self, limit: int = 4096) -> None:
        self._created: dict[str, int] = {}
        self._limit = limit

    def cards(
        self, backends: Iterable[Backend], aliases: Mapping[str, str], now: float
    ) -> dict[str, dict[str, Any]]:
        """The cards of all models, by id, sorted.

        Args:
            backends: those that take requests.
            aliases: other names for models; one that is a served model's own name is not used.
            now: Unix seconds, for a card that has no ``created``.
        """
        found: dict[str, list[tuple[Backend, ModelCard]]] = {}
        for backend in backends:
            for card in backend.snapshot.models:
                found.setdefault(card.id, []).append((backend, card))
        cards = {
            model: _merged(offers, self._first_seen(model, offers[0][1], now))
            for model, offers in found.items()
        }
        for alias, target in aliases.items():
            if target in found and alias not in found:
                cards[alias] = {**cards[target], "id": alias, "root": target}
        if len(self._created) > self._limit:
            self._created = {model: self._created[model] for model in found}
        return dict(sorted(cards.items()))

    def _first_seen(self, model: str, card: ModelCard, now: float) -> int:
        created = card.raw.get("created")
        if not isinstance(created, int) or isinstance(created, bool):
            created = int(now)
        return self._created.setdefault(model, created)


CATALOGUE: Final = web.AppKey("catalogue", ModelCatalogue)
"""Where the application carries its catalogue."""


def _merged(offers: list[tuple[Backend, ModelCard]], created: int) -> dict[str, Any]:
    """The first backend's card, with what the page promises besides.

    ``radix_cache_size`` is the size of the KV caches of all backends of the model, bytes.
    """
    card = offers[0][1]
    merged: dict[str, Any] = {
        "id": card.id,
        "object": "model",
        "created": created,
        "owned_by": "sglang",
        "root": card.id,
        "parent": card.parent,
        **card.raw,
    }
    merged["id"] = card.id
    merged["created"] = created
    merged.setdefault("permission", [])
    sizes = [size for backend, _ in offers if (size := backend.snapshot.load.kv_bytes) is not None]
    if sizes:
        merged.setdefault("radix_cache_size", sum(sizes))
    known = [
        value for backend, _ in offers if (value := backend.snapshot.engine.speculative) is not None
    ]
    if known:
        merged.setdefault("speculative_decoding", any(known))
    return merged


def _cards(request: web.Request, gateway: Gateway) -> dict[str, dict[str, Any]]:
    """The cards of those models that the request's key may use."""
    runtime, key = gateway.runtime, request[RECORD].key
    aliases = runtime.config.routing.model_aliases
    cards = request.app[CATALOGUE].cards(runtime.pool.routable(), aliases, gateway.wall())
    if key is None:
        return cards
    return {
        name: card
        for name, card in cards.items()
        if key.permits(name) or key.permits(aliases.get(name, name))
    }


async def list_models(request: web.Request) -> web.StreamResponse:
    """Every model that a backend serves now, and every alias of one."""
    cards = _cards(request, request.app[GATEWAY])
    return json_response({"object": "list", "data": list(cards.values())})


async def show_model(request: web.Request) -> web.StreamResponse:
    """One model; its id may hold slashes."""
    cards = _cards(request, request.app[GATEWAY])
    model, key = request.match_info["id"], request[RECORD].key
    if model not in cards:
        if key is not None:
            key.require(model)
        raise _unknown(model, cards)
    return json_response(cards[model])


async def model_info(request: web.Request) -> web.StreamResponse:
    """What SGLang says of its model, for the backends of ``?model=`` or the first of all.

    SGLang's own client asks for it (``lang/backend/runtime_endpoint.py``).
    """
    runtime = request.app[GATEWAY].runtime
    backends = runtime.pool.routable()
    wanted, key = request.query.get("model"), request[RECORD].key
    if wanted is not None:
        target = runtime.config.routing.model_aliases.get(wanted, wanted)
        if key is not None:
            key.require(wanted, target)
        backends = tuple(backend for backend in backends if backend.serves(target))
        if not backends:
            raise _unknown(wanted, _cards(request, request.app[GATEWAY]))
    elif key is not None:
        backends = tuple(
            backend for backend in backends if any(map(key.permits, backend.snapshot.model_ids))
        )
    for backend in backends:
        document = backend.snapshot.engine.model_info
        if document is not None:
            return json_response(document)
    raise UnavailableError(
        "No backend has told ollad about its model yet. Try again shortly.", code="no_backend"
    )


def _unknown(model: str, known: Iterable[str]) -> NotFoundError:
    names = list(known)
    more = len(names) - _LISTED_MODELS
    listed = ", ".join(names[:_LISTED_MODELS]) + (f" and {more} more" if more > 0 else "")
    return NotFoundError(
        f"The model '{model:.200}' is not served here. Known models: {listed or 'none'}.",
        param="model",
        code="model_not_found",
    )
