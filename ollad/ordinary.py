"""What aiohttp does for a client's connection: it serves what the fast path does not.

aiohttp answers what is no HTTP, and what a handler could not answer, in words of its own and logs
the bytes it could not read, which may hold a key. Here such a request gets the same envelope,
headers, count and access line as any other.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.http_exceptions import BadStatusLine, HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import _ErrInfo

from ollad.bodies import LendingHandler
from ollad.errors import OUR_MISTAKE, GatewayError
from ollad.framing import HEAD_END
from ollad.malformed import (
    LONGEST_FIELD,
    LONGEST_TARGET,
    HeadTimeoutError,
    InvalidHostError,
    malformed,
)
from ollad.record import RECORD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import web
    from structlog.typing import FilteringBoundLogger

    from ollad.connection import Begun, Connection

    Refuse = Callable[[web.BaseRequest, GatewayError], web.Response]
    Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["Learner", "OrdinaryHandler"]

_VERSIONS: Final = frozenset({HttpVersion10, HttpVersion11})
_MOST_FIELDS: Final = 128

_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=-]*(?:%[0-9A-Fa-f]{2}[\w.~!$&'()*+,;=-]*)*)(?::\d*)?",
    re.ASCII,
)
"""A host, perhaps empty, and perhaps a port (RFC 9110 §7.2, RFC 3986 §3.2.2 but IPvFuture)."""

_LINGER_SECONDS: Final = 10.0
"""How long the rest of a body nobody wants may take to arrive."""

_LOST: Final = -1
"""Bytes missing of a request where nobody counts them."""


class Learner(Protocol):
    """Who is told of the heads of requests, so that the next like them can be served faster."""

    def learn(self, message: RawRequestMessage, data: bytes, end: int) -> None:
        """Remember the head of a request, which ends at ``end`` and has been taken."""


class OrdinaryHandler(LendingHandler):
    """Serves the requests of one connection with aiohttp, as long as no other does.

    Args:
        server: aiohttp's server, which keeps such handlers and knows the application.
        connection: the client's.
        logger: where unexpected errors go.
        refuse: makes the response to a request that did not reach the application.
        known: what serves the requests of a method and a path, of those that need no resolver.
        learner: told of heads.
    """

    __slots__ = (
        "_handed",
        "_idle",
        "_known",
        "_learner",
        "_logger",
        "_missing",
        "_refuse",
        "_vacancy",
    )

    connection: Connection

    def __init__(
        self,
        server: web.Server,
        connection: Connection,
        *,
        logger: FilteringBoundLogger,
        refuse: Refuse,
        known: Mapping[tuple[str, str], Serve],
        learner: Learner,
    ) -> None:
        super().__init__(
            server,
            connection,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=connection.limits.keepalive_timeout,
            tcp_keepalive=False,  # it comes with the socket that is listened on
            access_log=None,  # aiohttp's own way to have none
            auto_decompress=False,
            max_line_size=LONGEST_TARGET,
            max_field_size=LONGEST_FIELD,
            max_headers=_MOST_FIELDS,
        )
        self._logger = logger
        self._refuse = refuse
        self._known = known
        self._learner = learner
        self._handed: Begun | None = None
        self._idle = True  # as far as the task knows
        self._vacancy: asyncio.Future[None] | None = None
        self._missing = 0  # of the request that has come last; 0: the next bytes begin another

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of what is under way."""
        begun, self._handed = self._handed, None
        super().connection_lost(exc)
        if begun is not None:
            begun.client_gone()

    @property
    def on_pressure(self) -> Callable[[], None] | None:
        """Called whenever what was written begins to wait for the client."""
        return self.connection.on_pressure

    @on_pressure.setter
    def on_pressure(self, call: Callable[[], None] | None) -> None:
        self.connection.on_pressure = call

    @property
    def on_relief(self) -> Callable[[], None] | None:
        """Called once, when it waits no longer."""
        return self.connection.on_relief

    @on_relief.setter
    def on_relief(self, call: Callable[[], None] | None) -> None:
        self.connection.on_relief = call

    # --- what arrives --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Leave bytes to aiohttp, but take no request after which the next has no certain place.

        llhttp takes a request line without a version, and ones of HTTP/0.9 and 2.0, as if they were
        of 1.1; and behind a request with ``Upgrade`` aiohttp loses what came in the same segment.
        A ``Host`` that is none is refused too (RFC 9112 §3.2); aiohttp refuses two, and none at
        all.
        """
        queued = len(self._messages)
        count = self._request_count
        super().data_received(data)
        for place in range(queued, len(self._messages)):
            message, body = self._messages[place]
            if not isinstance(message, RawRequestMessage):
                continue
            if message.version not in _VERSIONS:
                self._messages[place] = (_ErrInfo(400, BadStatusLine(), ""), body)
            elif not _HOST.fullmatch(message.headers.get(hdrs.HOST, "")):
                self._messages[place] = (_ErrInfo(400, InvalidHostError(""), ""), body)
            elif message.upgrade:
                self._messages[place] = (message._replace(should_close=True), body)
        if self._missing > 0:
            self._missing = max(_LOST, self._missing - len(data))
        elif self._missing == 0 and data:
            self._missing = self._rest(data, queued)
        if self._request_count != count:
            self.connection.stop_clock()
        elif data and self._waiting and self.connection.occupant is None:
            # nothing is being served, so this was a part of a head
            self.connection.expect_rest_of_head()

    def _rest(self, data: bytes, queued: int) -> int:
        """Bytes missing of the request that ``data`` begins; ``_LOST`` if it is not only one.

        Args:
            data: from the beginning of a request.
            queued: how many requests were waiting before.
        """
        if len(self._messages) != queued + 1:
            return _LOST
        message, _ = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or message.chunked or message.upgrade:
            return _LOST
        end = data.find(HEAD_END) + len(HEAD_END)
        rest = end + int(message.headers.get(hdrs.CONTENT_LENGTH, 0)) - len(data)
        if rest == 0:
            self._learner.learn(message, data, end)
        return max(_LOST, rest)

    @property
    def _waiting(self) -> bool:
        """Whether a request is waited for."""
        if self._messages:
            return False
        return self._idle or (self._waiter is not None and not self._waiter.done())

    def head_late(self) -> None:
        """Answer a head that has begun to arrive but takes too long."""
        if not self._waiting:
            return
        error = HeadTimeoutError()
        self._messages.append((_ErrInfo(error.code, error, error.message), EMPTY_PAYLOAD))
        self._wake()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, if reading was paused at all: the reader of each small body asks for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def renew_parser(self) -> None:
        """Parse what comes next as the beginning of a request, whatever has come before."""
        super().renew_parser()
        self._missing = 0

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle, once aiohttp alone serves it; else it has a clock."""
        if self._idle:
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    # --- what was begun without aiohttp --------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether no further request will be served."""
        return self._close or self._force_close

    def take_over(self, begun: Begun) -> None:
        """Serve a request, whatever was done for it before."""
        self._handed = begun
        # with a limit that the body does not reach: nothing is to be paused for what is here
        body = StreamReader(self, len(begun.body), loop=self._loop)
        body.feed_data(begun.body)
        body.feed_eof()
        self._messages.appendleft((begun.message, body))
        self._wake()
        self._tell_vacancy()

    def take_begun(self) -> Begun | None:
        """What was done before for the request that is served now; given once."""
        begun, self._handed = self._handed, None
        return begun

    def occupant_gone(self) -> None:
        """The request that was served without it has been answered."""
        self._tell_vacancy()
        if not self._messages:
            self.connection.expect_rest_of_head()

    def _tell_vacancy(self) -> None:
        if self._vacancy is not None and not self._vacancy.done():
            self._vacancy.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what is served ------------------------------------------------------------------------

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
                if not await self._ready():
                    continue
                self._idle = False
                self.connection.stop_clock()
                serve = self._known_server()
                if serve is None:
                    self._missing = _LOST
                    await super().start()
                    return
                if not await self._serve(serve):
                    break
        except asyncio.CancelledError:
            self.force_close()
            raise
        if self.transport is not None and not self._force_close:
            self.transport.close()

    async def _ready(self) -> bool:
        """Whether the next request can be served; waits for what is in its way."""
        if self.connection.occupant is not None:
            self._vacancy = self._loop.create_future()
            try:
                await self._vacancy
            finally:
                self._vacancy = None
        elif self._paused:
            await self._drain_helper()
        else:
            return bool(self._messages)
        return False

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
        if self._handed is None:
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
        self._idle = True
        if not self._messages:
            self.connection.expect_another(clean=self._missing == 0)
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
            error: GatewayError = malformed(exc)
        else:
            self._logger.error("unexpected error below the application", exc_info=exc)
            error = GatewayError(OUR_MISTAKE)
        record = request.get(RECORD)
        if request.writer.output_size or (record is not None and record.status):
            raise ConnectionResetError("A response has begun already.")
        return self._refuse(request, error)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what aiohttp could not handle, by structlog."""
        self._logger.error(
            "unexpected error on a connection",
            exc_info=options.get("exc_info", True),
            detail=str(args[0]) if args else None,
        )
