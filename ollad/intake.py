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
from ollad.jsontext import load_object, refuse_nesting, replace_members
from ollad.model_choice import find_model
from ollad.multipart import form_field
from ollad.record import RECORD
from ollad.sglang.media import check_media, names_media
from ollad.sglang.parameters import ignored_parameters, refuse_fields, replace_rid
from ollad.sglang.plain import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiohttp import web

    from ollad.config.schema import Server
    from ollad.gateway import Runtime
    from ollad.record import RequestRecord

__all__ = [
    "COUNTED",
    "JSON",
    "Document",
    "complete_call",
    "fresh_rid",
    "inbound_of",
    "read_body",
    "read_call",
    "read_document",
    "read_upload",
]

JSON: Final = "application/json"

COUNTED: Final = 16 * 1024
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
    if size >= COUNTED:
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
    if request.headers.get("Content-Type") != JSON and request.content_type != JSON:
        given = shown_header(request.headers, "Content-Type")[:_SHOWN]
        raise UnsupportedMediaTypeError(
            f"Content-Type '{given}' is not taken here; "
            "send JSON with 'Content-Type: application/json'.",
            param="Content-Type",
        )
    body = await read_body(request, runtime.config.server)
    record = request[RECORD]
    taken = read_document(body, record, runtime)
    document = taken.document
    named = document
    if document.get("model") in (None, "") and "X-Olla-Model" not in request.headers:
        named = {"model": usual_model(document)}
    model, spliced = await find_model(request, runtime, named)
    inbound = inbound_of(request, runtime)
    query = _with_query(target, request)
    return complete_call(taken, record, inbound, query, model, spliced, identity)


class Document:
    """A JSON request that clients may send.

    Attributes:
        body: its text, with a ``rid`` of ollad's own in the place of the client's.
        document: the client's body, parsed; of long texts it may have the beginnings only.
        rid: the client's own, if it is one string.
        omitted: bytes of texts that it is without.
    """

    __slots__ = ("body", "document", "omitted", "rid")

    def __init__(
        self, body: bytes, document: dict[str, Any], rid: str | None, omitted: int = 0
    ) -> None:
        self.body = body
        self.document = document
        self.rid = rid
        self.omitted = omitted


def read_document(body: bytes, record: RequestRecord, runtime: Runtime) -> Document:
    """Parse the body of a request and find what it may not ask for.

    Raises:
        BadRequestError: naming what is wrong.
    """
    excerpt = read_excerpt(body) if len(body) >= LONG_TEXT else None
    if excerpt is None:
        document, omitted = load_object(body), 0
        if is_plain(document):
            return Document(body, document, None)
        refuse_nesting(body, document)
    else:
        document, omitted = excerpt
    refuse_fields(document)
    if names_media(document):
        check_media(document, runtime.config.media)
    record.ignored_parameters = ignored_parameters(document)
    body, rid = replace_rid(body, document, fresh_rid)
    return Document(body, document, rid, omitted)


def complete_call(
    given: Document,
    record: RequestRecord,
    inbound: Inbound,
    target: str,
    model: str,
    spliced: str | None,
    identity: bool,
) -> Call:
    """What is to be sent to a backend.

    Args:
        given: the request.
        record: of the request.
        inbound: where it came from.
        target: path on the backend, and the query.
        model: id of the model it is for.
        spliced: the name of that to write into the body, if that differs from what stands there.
        identity: whether the reply must come without content encoding.

    Raises:
        GatewayError: its key does not allow it.
    """
    body, document = given.body, given.document
    if spliced is not None:
        body = replace_members(body, {"model": orjson.dumps(spliced)})
    key = record.key
    if key is not None:
        check_adapters(document, key)
        if key.salted:
            body, document = salted(body, document, key, target.partition("?")[0])
    return Call(
        record.family,
        record.method,
        target,
        body,
        inbound,
        document,
        model,
        given.rid,
        record.tenant,
        identity,
        omitted=given.omitted,
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
