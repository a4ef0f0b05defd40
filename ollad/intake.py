"""From a client's HTTP request to a call: reading and guarding.

Everything that can be wrong with a request is found here, before a backend is chosen.
"""

from __future__ import annotations

import asyncio
import uuid
from email.message import Message
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import HttpVersion11

from ollad.bodies import LONG, receive_body
from ollad.call import Call, Inbound
from ollad.entrance import check_adapters, salted
from ollad.errors import (
    PayloadTooLargeError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
)
from ollad.excerpt import LONG as LONG_TEXT
from ollad.excerpt import read_excerpt
from ollad.gateway import GATEWAY
from ollad.headers import shown_header
from ollad.jsontext import parse_object, replace_members
from ollad.model_choice import find_model
from ollad.multipart import form_field
from ollad.record import RECORD
from ollad.sglang.media import check_media, names_media
from ollad.sglang.parameters import ignored_parameters, refuse_fields, replace_rid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiohttp import web

    from ollad.config.schema import Server
    from ollad.gateway import Runtime

__all__ = ["fresh_rid", "inbound_of", "read_body", "read_call", "read_upload"]

_JSON: Final = "application/json"

_COUNTED: Final = 16 * 1024
"""Bytes from which a body counts as held; smaller ones are bounded by the connections."""

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
    length = request.content_length or 0
    if length >= LONG:
        body = await receive_body(request, length, partial(_hold, request))
        if body is not None:
            return body
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
        given = shown_header(request.headers, "Content-Type")[:_SHOWN]
        raise UnsupportedMediaTypeError(
            f"Content-Type '{given}' is not taken here; "
            "send JSON with 'Content-Type: application/json'.",
            param="Content-Type",
        )
    body = await read_body(request, runtime.config.server)
    excerpt = read_excerpt(body) if len(body) >= LONG_TEXT else None
    document, omitted = (parse_object(body), 0) if excerpt is None else excerpt
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
        omitted=omitted,
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


def _with_query(target: str, request: web.Request) -> str:
    if "?" not in request.raw_path:
        return target
    query = request.rel_url.raw_query_string
    return f"{target}?{query}" if query else target


def fresh_rid() -> str:
    """A request id for SGLang: 32 hex digits, so that none is a prefix of another."""
    return uuid.uuid4().hex
