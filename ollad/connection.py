"""What happens on a client's connection below the application.

aiohttp answers what is no HTTP, and what a handler could not answer, in words of its own and logs
the bytes it could not read, which may hold a key. Here such a request gets the same envelope,
headers, count and access line as any other.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.web_protocol import _ErrInfo

from ollad.errors import (
    OUR_MISTAKE,
    BadRequestError,
    GatewayError,
    HeadersTooLargeError,
    RequestTimeoutError,
    UriTooLongError,
)
from ollad.patience import HeadTimeoutError, PatientHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import StreamReader, web
    from structlog.typing import FilteringBoundLogger

    from ollad.config.schema import Server

    Refuse = Callable[[web.BaseRequest, GatewayError], web.Response]
    Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["Connection"]

_VERSIONS: Final = frozenset({HttpVersion10, HttpVersion11})
_LONGEST_TARGET: Final = 8190
_LONGEST_FIELD: Final = 16380
"""Bytes of one header's name and value; not the same as for the target, so that errors differ."""

_MOST_FIELDS: Final = 128

_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=-]*(?:%[0-9A-Fa-f]{2}[\w.~!$&'()*+,;=-]*)*)(?::\d*)?",
    re.ASCII,
)
"""A host, perhaps empty, and perhaps a port (RFC 9110 §7.2, RFC 3986 §3.2.2 but IPvFuture)."""

_LINGER_SECONDS: Final = 10.0
"""How long the rest of a body nobody wants may take to arrive."""


class _InvalidHostError(BadHttpMessage):
    """The value of ``Host`` is none."""


class Connection(PatientHandler):
    """One client's connection.

    Args:
        server: aiohttp's server, which keeps the connections and knows the application.
        loop: the running loop.
        logger: where unexpected errors go.
        refuse: makes the response to a request that did not reach the application.
        known: what serves the requests of a method and a path, of those that need no resolver.
        limits: how long it may be idle, and the head of a request may take.

    Attributes:
        peer: address of its other end; empty for a unix socket.
        scheme: ``http`` or ``https``, as the peer speaks.
    """

    __slots__ = ("_known", "_logger", "_refuse", "peer", "scheme")

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        logger: FilteringBoundLogger,
        refuse: Refuse,
        known: Mapping[tuple[str, str], Serve],
        limits: Server,
    ) -> None:
        super().__init__(
            server,
            head_seconds=limits.header_timeout,
            loop=loop,
            keepalive_timeout=limits.keepalive_timeout,
            access_log=None,  # aiohttp's own way to have none
            auto_decompress=False,
            max_line_size=_LONGEST_TARGET,
            max_field_size=_LONGEST_FIELD,
            max_headers=_MOST_FIELDS,
        )
        self._logger = logger
        self._refuse = refuse
        self._known = known
        self.peer = ""
        self.scheme = "http"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what every request of the connection would ask its transport for."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else str(peer or "")
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"

    def data_received(self, data: bytes) -> None:
        """Take no request after which it is uncertain where the next one begins.

        llhttp takes a request line without a version, and ones of HTTP/0.9 and 2.0, as if they were
        of 1.1; and behind a request with ``Upgrade`` aiohttp loses what came in the same segment.
        A ``Host`` that is none is refused too (RFC 9112 §3.2); aiohttp refuses two, and none at
        all.
        """
        queued = len(self._messages)
        super().data_received(data)
        for place in range(queued, len(self._messages)):
            message, body = self._messages[place]
            if not isinstance(message, RawRequestMessage):
                continue
            if message.version not in _VERSIONS:
                self._messages[place] = (_ErrInfo(400, BadStatusLine(), ""), body)
            elif not _HOST.fullmatch(message.headers.get(hdrs.HOST, "")):
                self._messages[place] = (_ErrInfo(400, _InvalidHostError(""), ""), body)
            elif message.upgrade:
                self._messages[place] = (message._replace(should_close=True), body)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused at all: the reader of each small body asks for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    async def start(self) -> None:
        """Serve the connection's requests, one after the other.

        Requests for known paths are served right here, which saves what aiohttp does for each: a
        task, and the waiting for it. The first that is anything else hands the connection over
        to aiohttp, for good.
        """
        try:
            while not self._force_close:
                if self._messages:
                    await asyncio.sleep(0)  # whoever pipelines must not keep all others waiting
                else:
                    await self._message()
                serve = self._known_server()
                if serve is None:
                    await super().start()
                    return
                if not await self._serve(serve):
                    break
        except asyncio.CancelledError:
            self.force_close()
            raise
        if self.transport is not None and not self._force_close:
            self.transport.close()

    async def _message(self) -> None:
        """Wait until a request's head has arrived."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _known_server(self) -> Serve | None:
        """What serves the next request, if that is simple and its path known."""
        message, _ = self._messages[0]
        if not isinstance(message, RawRequestMessage) or message.upgrade:
            return None
        serve = self._known.get((message.method, message.path))
        return None if hdrs.EXPECT in message.headers else serve

    async def _serve(self, serve: Serve) -> bool:
        """Serve the next request; whether the connection may be used again."""
        message, body = self._messages.popleft()
        task = self._task_handler
        if self._parser is None or self._request_factory is None or task is None:
            return False  # lost by now
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        request = cast(
            "web.Request",  # which an application makes of what it is given
            self._request_factory(message, body, self, StreamWriter(self, self._loop), task),  # type: ignore[arg-type]
        )
        self._current_request = request
        self._request_in_progress = True
        try:
            response = await serve(request)
            await response.write_eof()
        except ConnectionError:
            return False
        except Exception as error:  # noqa: BLE001 - the connection's task is nobody else's to watch
            self.log_exception("a request broke its connection", exc_info=error)
            self.force_close()
            return False
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None and not self._handler_waiter.done():
                self._handler_waiter.set_result(None)
        if not body.is_eof():
            await self._pass_over(body)
        self._keepalive = bool(response.keep_alive)
        if not self._keepalive or self._close or not body.is_eof():
            return False
        closing = self._loop.time() + self._keepalive_timeout
        self._next_keepalive_close_time = closing
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(closing, self._process_keepalive)
        return True

    async def _pass_over(self, body: StreamReader) -> None:
        """Read what is left of a body nobody wants, for a while.

        A connection that is closed before is reset, and its response may be lost with that.
        """
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not body.is_eof() and not self._force_close:
                    await body.readany()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,  # noqa: ARG002 - the error says it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the bytes that were received
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed, or that broke its handler.

        Raises:
            ConnectionError: there is no way to answer; the connection is closed.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            error: GatewayError = _malformed(exc)
        else:
            self._logger.error("unexpected error below the application", exc_info=exc)
            error = GatewayError(OUR_MISTAKE)
        if request.writer.output_size:
            raise ConnectionResetError("A response has begun already.")
        return self._refuse(request, error)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what aiohttp could not handle, by structlog."""
        self._logger.error(
            "unexpected error on a connection",
            exc_info=options.get("exc_info", True),
            detail=str(args[0]) if args else None,
        )


def _malformed(error: HttpProcessingError) -> GatewayError:
    """What to tell a client whose request is no HTTP, without quoting it."""
    match error:
        case HeadTimeoutError():
            return RequestTimeoutError(
                "The headers of the request did not arrive in time (server.header_timeout)."
            )
        case LineTooLong(args=(_, limit, *_)) if limit == _LONGEST_TARGET:
            return UriTooLongError(f"The request target is longer than {_LONGEST_TARGET} bytes.")
        case LineTooLong():
            return HeadersTooLargeError(f"A header is longer than {_LONGEST_FIELD} bytes.")
        case InvalidHeader():
            what = "one of its headers is invalid"
        case InvalidURLError():
            what = "its target is invalid"
        case _InvalidHostError():
            what = "its Host is invalid"
        case BadHttpMethod():
            what = "its method is invalid (was TLS meant? This port speaks plain HTTP)"
        case BadStatusLine():
            what = "its request line is invalid, or not of HTTP/1"
        case _:
            what = "its headers or the framing of its body are invalid"
    return BadRequestError(f"This is no valid HTTP/1.1 request: {what}.", code="malformed_http")
