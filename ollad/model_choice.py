"""Which model a request is for, and so which backends can answer it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.errors import BadRequestError, NotFoundError, UnavailableError
from ollad.gateway import GATEWAY
from ollad.headers import shown_header
from ollad.record import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiohttp import web

    from ollad.auth import Key
    from ollad.backends.backend import Backend
    from ollad.gateway import Runtime
    from ollad.record import RequestRecord

__all__ = ["find_model", "resolve_model"]

_DEFAULT_MODEL: Final = "default"
"""What SGLang's own client sends when it does not care."""

_LISTED_MODELS: Final = 20
_SHOWN: Final = 200  # characters of a client's text in a message


async def find_model(
    request: web.Request, runtime: Runtime, document: Mapping[str, Any]
) -> tuple[str, str | None]:
    """As ``resolve_model``, but backends are asked once more before a model is called unknown.

    They may have loaded it, an adapter for instance, since they were asked last.
    """
    record, headers = request[RECORD], request.headers
    try:
        return resolve_model(record, headers, runtime, document)
    except NotFoundError:
        await request.app[GATEWAY].refresh_models()
        return resolve_model(record, headers, runtime, document)


def resolve_model(
    record: RequestRecord,
    headers: Mapping[str, str],
    runtime: Runtime,
    document: Mapping[str, Any],
) -> tuple[str, str | None]:
    """Find the model a request is for.

    The body's ``model`` counts, then the ``X-Olla-Model`` header, then the only model there is.

    Args:
        record: of the request.
        headers: of the request.
        runtime: the present configuration.
        document: the body, or what names a model in its place.

    Returns:
        The model's id at the backends, and the name to write into the body if that differs from
        what stands there.

    Raises:
        BadRequestError: no model named and several served, or a name that is no string.
        NotFoundError: a model that no backend serves.
        UnavailableError: no backend is up, or none of those that serve it.
    """
    named = document.get("model")
    if named is not None and not isinstance(named, str):
        raise BadRequestError(f"'model' must be a string, not {named!r:.40}.", param="model")
    key = record.key
    aliases = runtime.config.routing.model_aliases
    if key is not None and named and named != _DEFAULT_MODEL:
        _require(key, named, aliases)
    if named and named != _DEFAULT_MODEL and named not in aliases and runtime.pool.serving(named):
        record.model = record.served_model = named  # the usual case, without the lists below
        return named, None
    served = _permitted(key, runtime.pool.models())
    anonymous = {"", _DEFAULT_MODEL} - {*served, *aliases}
    wanted = named or ""
    if wanted in anonymous:
        wanted = shown_header(headers, "X-Olla-Model") or wanted
    record.model = wanted or None
    if not served and (key is None or not runtime.pool.models()):
        raise UnavailableError("No backend is up. Try again shortly.", code="no_backend")
    if wanted in anonymous:
        record.served_model = _only_model(runtime, key)
        record.model = record.model or record.served_model
        return record.served_model, None
    target = aliases.get(wanted, wanted)
    if key is not None:
        _require(key, wanted, aliases)
    model = _card_id(runtime.pool.routable(), target)
    if model is None:
        raise _unserved(runtime, wanted, target, served)
    if key is not None:
        # an adapter is found by its base's name, too, which says nothing of the adapter
        key.require(model, *((wanted,) if wanted in aliases else ()))
    record.served_model = model
    return model, target if named is not None and target != named else None


def _require(key: Key, wanted: str, aliases: Mapping[str, str]) -> None:
    """Accept a model that the key may use, before anything is said of whether there is one.

    Raises:
        ForbiddenError: it may not.
    """
    target = aliases.get(wanted, wanted)
    key.require(wanted, target, target.rpartition(":")[2])


def _permitted(key: Key | None, models: tuple[str, ...]) -> tuple[str, ...]:
    return models if key is None else tuple(filter(key.permits, models))


def _only_model(runtime: Runtime, key: Key | None) -> str:
    """The only base model served by anyone, of those that the key may use."""
    cards = [
        card
        for backend in runtime.pool.routable()
        for card in backend.snapshot.models
        if key is None or key.permits(card.id)
    ]
    bases = sorted({card.id for card in cards if card.parent is None})
    if len(bases) == 1:
        return bases[0]
    names = bases or sorted({card.id for card in cards})
    raise BadRequestError(
        f"Name a model as 'model' (or in the header X-Olla-Model), one of: {_listed(names)}.",
        param="model",
        code="model_required",
    )


def _card_id(backends: Iterable[Backend], name: str) -> str | None:
    """The id under which the model ``name`` is listed.

    SGLang lists an adapter by its own name and selects it by ``base:adapter``
    (``_parse_model_parameter`` in entrypoints/openai/serving_base.py).
    """
    adapter = None
    for backend in backends:
        for card in backend.snapshot.models:
            if card.id == name:
                return name
            if card.parent is not None and f"{card.parent}:{card.id}" == name:
                adapter = card.id
    return adapter


def _unserved(
    runtime: Runtime, wanted: str, target: str, served: tuple[str, ...]
) -> NotFoundError | UnavailableError:
    shown = wanted[:_SHOWN]
    if _card_id(runtime.pool, target) is not None:
        return UnavailableError(
            f"The backends that serve the model '{shown}' are out at the moment.",
            param="model",
            code="no_backend",
        )
    aliases = runtime.config.routing.model_aliases
    known = sorted({*served, *(alias for alias in aliases if aliases[alias] in served)})
    return NotFoundError(
        f"The model '{shown}' is not served here. Known models: {_listed(known)}.",
        param="model",
        code="model_not_found",
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED_MODELS
    return ", ".join(names[:_LISTED_MODELS]) + (f" and {more} more" if more > 0 else "")
