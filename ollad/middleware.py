"""What every request goes through: an id, a record, errors as JSON, the access line.

Response headers are set by ``announce``, which aiohttp calls before any response starts, so that
streams, whole replies and errors carry the same ones.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from ollad.errors import GatewayError, UnavailableError
from ollad.gateway import GATEWAY
from ollad.headers import client_address, new_request_id, valid_request_id
from ollad.logs import access_line
from ollad.record import RECORD, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Middleware

    from structlog.typing import FilteringBoundLogger

    from ollad.gateway import Gateway

__all__ = ["announce", "frame_requests"]

_PREFIX: Final = "/olla/"
_CLIENT_GONE: Final = 499
"""nginx's status for a client that did not wait; never sent, only logged and counted."""

_SERVER: Final = "ollad"


def frame_requests(
    families: Mapping[str, str], logger: FilteringBoundLogger, *, access: bool
) -> Middleware:
    """Make the outermost middleware.

    Args:
        families: endpoint family by the canonical path of its route.
        logger: where access lines and unexpected errors go.
        access: whether there are access lines.
    """

    @web.middleware
    async def frame(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        gateway = request.app[GATEWAY]
        record = _open_record(request, gateway, families)
        if api := record.path.startswith(_PREFIX):
            gateway.traffic.enter()
        gateway.telemetry.request_started(record.family)
        try:
            return await _answer(request, handler, gateway, record, logger)
        finally:
            if api:
                gateway.traffic.leave()
            seconds = gateway.clock() - record.started
            gateway.telemetry.request_finished(record, seconds)
            if access:
                access_line(logger, record, seconds)

    return frame


def _open_record(
    request: web.Request, gateway: Gateway, families: Mapping[str, str]
) -> RequestRecord:
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    inbound_id = request.headers.get("X-Olla-Request-ID", "")
    if not valid_request_id(inbound_id):
        inbound_id = new_request_id(round(gateway.wall() * 1000), secrets.randbits(74))
    record = RequestRecord(
        request_id=inbound_id,
        started=gateway.clock(),
        client=client_address(
            request.remote or "",
            request.headers.get("X-Forwarded-For"),
            gateway.runtime.trusted_proxies.__contains__,
        ),
        method=request.method,
        path=request.path,
        family=families.get(path, "other"),
    )
    request[RECORD] = record
    return record


async def _answer(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    gateway: Gateway,
    record: RequestRecord,
    logger: FilteringBoundLogger,
) -> web.StreamResponse:
    try:
        _refuse_while_draining(gateway, record)
        response = await handler(request)
    except asyncio.CancelledError:
        _client_gone(gateway, record)
        raise
    except GatewayError as error:
        return _error_response(error, record)
    except ConnectionError:
        _client_gone(gateway, record)
        raise
    except Exception:
        logger.exception("unexpected error", request_id=record.request_id, path=record.path)
        record.error = "internal_error"
        if record.status:
            # the reply has begun: ending the connection is all that is left to say so
            _abort(request)
            raise
        mistake = GatewayError("ollad made a mistake; its log has the details.")
        return _error_response(mistake, record)
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        record.response_bytes = len(response.body)
    return response


def _refuse_while_draining(gateway: Gateway, record: RequestRecord) -> None:
    if gateway.draining and record.path.startswith(_PREFIX):
        error = UnavailableError("ollad is shutting down. Try again shortly.", code="draining")
        error.headers = {**error.headers, "Connection": "close"}
        raise error


def _client_gone(gateway: Gateway, record: RequestRecord) -> None:
    record.error = record.error or "client_gone"
    if record.streamed:
        gateway.telemetry.stream_abort(record.family, "client")
    record.status = record.status or _CLIENT_GONE


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _error_response(error: GatewayError, record: RequestRecord) -> web.Response:
    """An error in OpenAI's envelope."""
    record.status = error.status
    record.error = record.error or error.code
    body = orjson.dumps(error.envelope())
    record.response_bytes = len(body)
    return web.Response(
        status=error.status, body=body, content_type="application/json", headers=error.headers
    )


async def announce(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers that every response carries."""
    record = request.get(RECORD)
    if record is None:
        return
    headers = response.headers
    if "aiohttp" in headers.get("Server", ""):
        headers["Server"] = _SERVER
    headers["X-Olla-Request-ID"] = headers["x-request-id"] = record.request_id
    if record.path.startswith(_PREFIX):
        headers["X-Olla-Backend-Type"] = "sglang"
    if record.endpoint is not None:
        headers["X-Olla-Endpoint"] = record.endpoint
    if record.model is not None:
        headers["X-Olla-Model"] = _printable(record.model)
    clock = request.app[GATEWAY].clock
    headers["X-Olla-Response-Time"] = f"{round((clock() - record.started) * 1000)}ms"
    if record.cache_hit is not None:
        headers["X-SGLang-Cache-Hit"] = record.cache_hit
    if record.spec_decode is not None:
        headers["X-SGLang-Spec-Decode"] = record.spec_decode
    if record.ignored_parameters:
        headers["X-Olla-Ignored-Params"] = ",".join(record.ignored_parameters)
    record.status = response.status


def _printable(text: str) -> str:
    """``text`` as a header value: visible ASCII, the rest percent-encoded, at most 256 octets."""
    return "".join(
        char if " " <= char <= "~" else "".join(f"%{octet:02X}" for octet in char.encode())
        for char in text[:256]
    )[:256]
