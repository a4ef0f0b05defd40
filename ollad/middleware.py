"""What every request goes through: an id, a record, errors as JSON, the access line.

Response headers are set by ``announce``, which aiohttp calls before any response starts, so that
streams, whole replies and errors carry the same ones.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import PayloadEncodingError

from ollad.announcement import PREFIX, announcement
from ollad.closing import close_record, note_cut, send_held
from ollad.dispatch import ATTEMPTED
from ollad.entrance import enter, leave
from ollad.errors import OUR_MISTAKE, BadRequestError, GatewayError, UnavailableError
from ollad.gateway import GATEWAY
from ollad.headers import client_address, new_request_id, valid_request_id
from ollad.ordinary import OrdinaryHandler
from ollad.outgoing import SentReply, WholeReply
from ollad.record import RECORD, RequestRecord
from ollad.relay.cut import reset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from aiohttp.typedefs import Middleware
    from structlog.typing import FilteringBoundLogger

    from ollad.connection import Begun
    from ollad.gateway import Gateway

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["Frame", "announce", "refuse_malformed"]

_SERVER: Final = "ollad"
_NOTHING: Final = "-"
"""Stands for the method and path of a request that could not be read."""


class Frame:
    """What every request goes through.

    Args:
        gateway: the running daemon.
        families: endpoint family by the canonical path of its route.
        logger: where access lines and unexpected errors go.
        access: whether there are access lines.
    """

    def __init__(
        self,
        gateway: Gateway,
        families: Mapping[str, str],
        logger: FilteringBoundLogger,
        *,
        access: bool,
    ) -> None:
        self._gateway = gateway
        self._families = families
        self._logger = logger
        self._access = access

    @property
    def middleware(self) -> Middleware:
        """The frame around requests whose route aiohttp has found out."""

        @web.middleware
        async def frame(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            path = "" if resource is None else resource.canonical
            return await self.serve(request, handler, self._families.get(path, "other"))

        return frame

    async def serve(
        self, request: web.Request, handler: Handler, family: str
    ) -> web.StreamResponse:
        """Have ``handler`` serve a request of an endpoint family."""
        gateway = self._gateway
        begun = _begun(request)
        record = _open_record(request, gateway, family) if begun is None else begun.record
        request[RECORD] = record
        task = _current_task()
        api = record.path.startswith(PREFIX)
        if api:
            gateway.traffic.enter(task)
        if begun is None:
            gateway.telemetry.request_started(family)
        else:
            gateway.traffic.leave(begun)
            if begun.attempt is not None:
                request[ATTEMPTED] = begun.attempt
        try:
            return await _serve(request, handler, gateway, record, self._logger, begun)
        finally:
            if api:
                gateway.traffic.leave(task)
            left = None if begun is None else request.pop(ATTEMPTED, None)
            if left is not None:
                gateway.dispatcher.abandoned(family, left.place, "client_gone")
            if record.lease is not None or record.held_bytes:
                leave(record, gateway)
            close_record(record, gateway, self._logger, access=self._access)


def refuse_malformed(
    error: GatewayError,
    client: str,
    gateway: Gateway,
    logger: FilteringBoundLogger,
    *,
    access: bool,
) -> web.Response:
    """Answer what could not be read as a request, count it and log it like one.

    Args:
        error: what is wrong with it.
        client: who sent it.
        gateway: the running daemon.
        logger: where access lines go.
        access: whether there are access lines.
    """
    record = RequestRecord(
        request_id=_new_id(gateway),
        started=gateway.clock(),
        client=client,
        method=_NOTHING,
        path=_NOTHING,
    )
    gateway.telemetry.request_started(record.family)
    response = _error_response(error, record)
    _set_headers(response, record, gateway)
    response.headers[hdrs.SERVER] = _SERVER
    response.force_close()
    close_record(record, gateway, logger, access=access)
    return response


def _begun(request: web.Request) -> Begun | None:
    """What has been done for the request before it came here."""
    handler = request.protocol
    return handler.take_begun() if isinstance(handler, OrdinaryHandler) else None


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("requests are served by tasks")
    return task


def _new_id(gateway: Gateway) -> str:
    return new_request_id(round(gateway.wall() * 1000), random.getrandbits(74))


def _open_record(request: web.Request, gateway: Gateway, family: str) -> RequestRecord:
    headers = request.headers
    handler = request.protocol
    # requests that did not come through a listener of ollad's have no such handler
    connection = handler.connection if isinstance(handler, OrdinaryHandler) else None
    peer = request.remote or "" if connection is None else connection.peer
    client = peer
    if "X-Forwarded-For" in headers and peer in (trusted := gateway.runtime.trusted_proxies):
        hops = ",".join(headers.getall("X-Forwarded-For"))
        client = client_address(peer, hops, trusted.__contains__)
    inbound_id = headers.get("X-Olla-Request-ID")
    return RequestRecord(
        inbound_id if inbound_id and valid_request_id(inbound_id) else _new_id(gateway),
        gateway.clock(),
        client,
        request.method,
        request.path,
        peer,
        request.scheme if connection is None else connection.scheme,
        family,
    )


async def _serve(
    request: web.Request,
    handler: Handler,
    gateway: Gateway,
    record: RequestRecord,
    logger: FilteringBoundLogger,
    begun: Begun | None,
) -> web.StreamResponse:
    """Have the request handled and its response sent, whatever happens on the way.

    Whole responses are sent from here, not by aiohttp after the middleware, so that the record
    covers them to their last byte.
    """
    try:
        response = await _answer(request, handler, gateway, record, logger, begun)
        if isinstance(response, WholeReply):
            # what is left of a body that nobody wants is no request
            last = not request.content.is_eof()
            keep_alive = send_held(
                request, response.head, response.whole, gateway, record, last=last
            )
            response.sent(keep_alive=keep_alive)
        elif not response.prepared:
            await _send(request, response, record)
        if isinstance(response, WholeReply | SentReply) and request.protocol._paused:  # noqa: SLF001 - as aiohttp's writer does
            # else a client that reads nothing could have one reply after another kept for it
            await request.protocol._drain_helper()  # noqa: SLF001 - likewise
    except (asyncio.CancelledError, ConnectionError):
        note_cut(request, gateway, record)
        raise
    return response


async def _answer(
    request: web.Request,
    handler: Handler,
    gateway: Gateway,
    record: RequestRecord,
    logger: FilteringBoundLogger,
    begun: Begun | None,
) -> web.StreamResponse:
    try:
        answer = _let_in(request, gateway, record, begun)
        if answer is not None:
            return answer
        return await handler(request)
    except GatewayError as error:
        if record.status:
            raise _broken(error, request, record, logger) from error
        return _error_response(error, record)
    except (PayloadEncodingError, web.HTTPException) as error:
        return _error_response(_translated(error), record)
    except asyncio.CancelledError:
        if record.status or not gateway.traffic.cut_off or request.transport is None:
            raise
        _current_task().uncancel()
        return _error_response(_draining(), record)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - the connection is what it must not reach
        return _mistake(error, request, record, logger)


def _let_in(
    request: web.Request, gateway: Gateway, record: RequestRecord, begun: Begun | None
) -> web.StreamResponse | None:
    """Let a request in, unless that was done before, or answer it.

    Raises:
        GatewayError: it may not come in.
    """
    if begun is None or gateway.traffic.cut_off:
        _refuse_while_draining(gateway, record)
    if begun is not None:
        if begun.refusal is not None:
            raise begun.refusal
    elif gateway.runtime.guarded:
        return enter(request.method, request.headers, record, gateway)
    return None


def _mistake(
    error: Exception, request: web.Request, record: RequestRecord, logger: FilteringBoundLogger
) -> web.Response:
    """Answer what nobody expected, while that is possible."""
    if record.status:
        raise _broken(error, request, record, logger) from error
    _log_mistake(error, record, logger)
    return _error_response(GatewayError(OUR_MISTAKE), record)


def _broken(
    error: Exception, request: web.Request, record: RequestRecord, logger: FilteringBoundLogger
) -> ConnectionError:
    """An error after the reply has begun: ending the connection is all that is left to say so."""
    _log_mistake(error, record, logger)
    if request.transport is not None:
        reset(request.transport)
    return ConnectionResetError("The reply could not be finished.")


def _log_mistake(error: Exception, record: RequestRecord, logger: FilteringBoundLogger) -> None:
    logger.error("unexpected error", request_id=record.request_id, path=record.path, exc_info=error)
    record.error = GatewayError.code


async def _send(request: web.Request, response: web.StreamResponse, record: RequestRecord) -> None:
    """Send a whole response of ollad's own."""
    if not request.content.is_eof():
        # a body nobody wants: the client may stop sending it, and what it sends is no request
        _close_after(response)
    await response.prepare(request)
    if isinstance(response, web.Response) and isinstance(response.body, bytes):
        record.response_bytes = 0 if request.method == hdrs.METH_HEAD else len(response.body)
    await response.write_eof()


def _close_after(response: web.StreamResponse) -> None:
    response.headers[hdrs.CONNECTION] = "close"
    response.force_close()


def _refuse_while_draining(gateway: Gateway, record: RequestRecord) -> None:
    if gateway.draining and not gateway.handing_over and record.path.startswith(PREFIX):
        raise _draining()


def _draining() -> UnavailableError:
    return UnavailableError("ollad is shutting down. Try again shortly.", code="draining")


def _translated(error: PayloadEncodingError | web.HTTPException) -> GatewayError:
    """An error of aiohttp's own, such as that of a target no route can match."""
    if isinstance(error, PayloadEncodingError):
        return BadRequestError("The framing of the request body is invalid.", code="malformed_http")
    translated = GatewayError(f"{error.reason}.", code="http_error")
    translated.status = error.status
    translated.kind = "invalid_request_error" if error.status < 500 else "api_error"
    return translated


def _error_response(error: GatewayError, record: RequestRecord) -> web.Response:
    """An error in OpenAI's envelope."""
    record.error = record.error or error.code
    return web.Response(
        status=error.status,
        body=orjson.dumps(error.envelope()),
        content_type="application/json",
        headers=error.headers,
    )


async def announce(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers that every response carries."""
    record = request.get(RECORD)
    if record is None:
        return
    gateway = request.app[GATEWAY]
    if "aiohttp" in response.headers.get(hdrs.SERVER, ""):
        response.headers[hdrs.SERVER] = _SERVER
    if gateway.draining:
        _close_after(response)
    _set_headers(response, record, gateway)


def _set_headers(response: web.StreamResponse, record: RequestRecord, gateway: Gateway) -> None:
    elapsed = gateway.clock() - record.started
    for name, value in announcement(record, elapsed):
        # a backend that sends these headers itself is believed
        response.headers.setdefault(name, value)
    record.status = response.status
    if record.first_byte is None:
        record.first_byte = elapsed
