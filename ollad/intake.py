"""From a client's HTTP request to a call: reading, guarding and naming the model.

Everything that can be wrong with a request is found here, before a backend is chosen.
"""

from __future__ import annotations

import asyncio
import uuid
from email.message import Message
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import HttpVersion11

from ollad.call import Call, Inbound
from ollad.entrance import check_adapters, salted
from ollad.errors import (
    BadRequestError,
    NotFoundError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from ollad.gateway import GATEWAY
from ollad.jsontext import parse_object, replace_members
from ollad.multipart import form_field
from ollad.record import RECORD
from ollad.sglang.media import check_media, names_media
from ollad.sglang.parameters import ignored_parameters, refuse_fields, replace_rid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiohttp import web

    from ollad.auth import Key
    from ollad.backends.backend import Backend
    from ollad.config.schema import Server
    from ollad.gateway import Runtime

__all__ = [
    "find_model",
    "fresh_rid",
    "inbound_of",
    "read_body",
    "read_call",
    "read_upload",
    "resolve_model",
]

_JSON: Final = "application/json"

_DEFAULT_MODEL: Final = "default"
"""What SGLang's own client sends when it does not care."""

_COUNTED: Final = 16 * 1024
"""Bytes from which a body counts as held; smaller ones are bounded by the connections."""

_LISTED_MODELS: Final = 20
_SHOWN: Final = 200  # characters of a client's text in a message


async def read_body(request: web.Request, server: Server) -> bytes:
    """Read the request body; it counts as held until the request has been answered.

    What can be refused from the headers alone is refused before ``100 Continue`` is sent
    (RFC 9110 §10.1.1).

    Raises:
        UnsupportedMediaTypeError: the body has a content encoding.
        PayloadTooLargeError: it is longer than ``server.max_body_size``.
        RequestTimeoutError: it did not arrive within ``server.body_timeout``.
        UnavailableError: too many bodies are held already.
    """
    limit = server.max_body_size
    headers = request.headers
    if "Content-Encoding" in headers:
        _refuse_encoding(headers.getall("Content-Encoding"))
    content = request.content
    if "Expect" not in headers and content.is_eof():
        body = content.read_nowait()
        _hold(request, len(body))
    else:
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        if _awaits_continue(request) and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(server.body_timeout):
                body = await _rest(request, limit)
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"The request body did not arrive within {server.body_timeout:g} s "
                "(server.body_timeout)."
            ) from error
    if len(body) > limit:
        raise _too_large(limit)
    request[RECORD].request_bytes = len(body)
    return body


def _refuse_encoding(encodings: Iterable[str]) -> None:
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        raise UnsupportedMediaTypeError(
            "Request bodies with a Content-Encoding are not taken; send the body uncompressed.",
            param="Content-Encoding",
            code="unsupported_content_encoding",
        )


def _hold(request: web.Request, size: int) -> None:
    """Count ``size`` bytes of the body as held, unless they are few."""
    if size >= _COUNTED:
        record = request[RECORD]
        request.app[GATEWAY].bodies.take(size - record.held_bytes)
        record.held_bytes = size


async def _rest(request: web.Request, limit: int) -> bytes:
    """What is still to come of a body that has not arrived whole."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        _hold(request, size)
        chunks.append(chunk)
    return b"".join(chunks)


def _awaits_continue(request: web.Request) -> bool:
    """Whether the client holds its body back for an interim reply, which HTTP/1.0 has not."""
    expectation = request.headers.get("Expect", "").strip().lower()
    return expectation == "100-continue" and request.version >= HttpVersion11


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(
        f"The request body is larger than {limit} bytes (server.max_body_size)."
    )


def inbound_of(request: web.Request, runtime: Runtime) -> Inbound:
    """Describe where the request came from."""
    record = request[RECORD]
    return Inbound(
        request.raw_headers
        if record.key is None
        else runtime.gate.without_own(request.raw_headers),
        record.request_id,
        record.peer,
        record.scheme,
        request.headers.get("Host", ""),
        record.peer in runtime.trusted_proxies,
    )


async def read_call(
    request: web.Request,
    runtime: Runtime,
    target: str,
    *,
    identity: bool = False,
    usual_model: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
) -> Call:
    """Read a JSON request that is to be relayed to ``target``.

    The body stays the client's bytes but for ``rid``, which is always replaced, and ``model``
    when an alias is used.

    Args:
        request: the client's request.
        runtime: the present configuration.
        target: path on the backend; the client's query is appended.
        identity: whether the reply must come without content encoding.
        usual_model: given the body, the model it is for when it names none itself.

    Raises:
        GatewayError: whatever is wrong with it, as a 4xx.
    """
    if request.headers.get("Content-Type") != _JSON and request.content_type != _JSON:
        raise UnsupportedMediaTypeError(
            f"Content-Type '{_header(request, 'Content-Type')[:_SHOWN]}' is not taken here; "
            "send JSON with 'Content-Type: application/json'.",
            param="Content-Type",
        )
    body = await read_body(request, runtime.config.server)
    document = parse_object(body)
    refuse_fields(document)
    if names_media(document):
        check_media(document, runtime.config.media)
    record = request[RECORD]
    record.ignored_parameters = ignored_parameters(document)
    rid = None
    if "rid" in document:
        body, rid = replace_rid(body, document, fresh_rid)
    named = document
    if document.get("model") in (None, "") and "X-Olla-Model" not in request.headers:
        named = {"model": usual_model(document)}
    model, spliced = await find_model(request, runtime, named)
    if spliced is not None:
        body = replace_members(body, {"model": orjson.dumps(spliced)})
    key = record.key
    if key is not None:
        check_adapters(document, key)
        if key.salted:
            body, document = salted(body, document, key, target)
    return Call(
        record.family,
        request.method,
        _with_query(target, request),
        body,
        inbound_of(request, runtime),
        document=document,
        model=model,
        rid=rid,
        tenant=record.tenant,
        identity=identity,
    )


async def read_upload(request: web.Request, runtime: Runtime, target: str) -> Call:
    """Read a form with a file, to be relayed to ``target`` as it is.

    The form's ``model`` field says which model it is for, as ``model`` does in a JSON body.

    Raises:
        GatewayError: whatever is wrong with it, as a 4xx.
    """
    boundary = _boundary(request) if request.content_type == "multipart/form-data" else None
    if not boundary:
        raise UnsupportedMediaTypeError(
            "Send the file as 'Content-Type: multipart/form-data' with a boundary.",
            param="Content-Type",
        )
    body = await read_body(request, runtime.config.server)
    field = form_field(body, boundary, "model")
    named = None if field is None else field.value
    model, spliced = await find_model(request, runtime, {"model": named})
    if spliced is not None and field is not None:
        body = b"".join((body[: field.start], spliced.encode(), body[field.end :]))
    return Call(
        family=request[RECORD].family,
        method=request.method,
        target=_with_query(target, request),
        body=body,
        inbound=inbound_of(request, runtime),
        model=model,
    )


def _boundary(request: web.Request) -> str | None:
    """The boundary of a form; None without one, or with one that RFC 2046 §5.1.1 does not allow."""
    message = Message()
    message["Content-Type"] = request.headers["Content-Type"]
    boundary = message.get_boundary()
    return boundary if boundary and boundary.isascii() else None


async def find_model(
    request: web.Request, runtime: Runtime, document: Mapping[str, Any]
) -> tuple[str, str | None]:
    """As ``resolve_model``, but backends are asked once more before a model is called unknown.

    They may have loaded it, an adapter for instance, since they were asked last.
    """
    try:
        return resolve_model(request, runtime, document)
    except NotFoundError:
        await request.app[GATEWAY].refresh_models()
        return resolve_model(request, runtime, document)


def resolve_model(
    request: web.Request, runtime: Runtime, document: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Find the model a request is for.

    The body's ``model`` counts, then the ``X-Olla-Model`` header, then the only model there is.

    Returns:
        The model's id at the backends, and the name to write into the body if that differs from
        what stands there.

    Raises:
        BadRequestError: no model named and several served, or a name that is no string.
        NotFoundError: a model that no backend serves.
        UnavailableError: no backend is up, or none of those that serve it.
    """
    record = request[RECORD]
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
        wanted = _header(request, "X-Olla-Model") or wanted
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


def _header(request: web.Request, name: str) -> str:
    """A header's value as text that can be shown; what is not UTF-8 in it is replaced."""
    value = request.headers.get(name, "").strip()
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _with_query(target: str, request: web.Request) -> str:
    if "?" not in request.raw_path:
        return target
    query = request.rel_url.raw_query_string
    return f"{target}?{query}" if query else target


def fresh_rid() -> str:
    """A request id for SGLang: 32 hex digits, so that none is a prefix of another."""
    return uuid.uuid4().hex
