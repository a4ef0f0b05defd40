"""A client's connection on which the head of a request has to arrive in time.

aiohttp bounds the time between requests, not that of a head that arrives byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

if TYPE_CHECKING:
    import asyncio

__all__ = ["HeadTimeoutError", "PatientHandler"]


class HeadTimeoutError(HttpProcessingError):
    """The head of a request did not arrive in time; handled as one that could not be parsed."""

    code = 408
    message = "Request Timeout"


class PatientHandler(web.RequestHandler):
    """aiohttp's connection, with a limit to its patience.

    The clock runs from the connection's beginning to the end of its first head, and from the
    first byte of any further head to its end. A connection on which nothing was sent is closed
    without a word.

    Args:
        manager: aiohttp's server.
        head_seconds: how long a head may take.
        options: for ``web.RequestHandler``.

    Attributes:
        occupant: what serves a request that the connection's task knows nothing of, if anything.
    """

    __slots__ = ("_begun", "_head_seconds", "_late", "occupant")

    def __init__(self, manager: web.Server, *, head_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._head_seconds = head_seconds
        self._begun = False
        self._late: asyncio.TimerHandle | None = None
        self.occupant: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._late = self._loop.call_later(self._head_seconds, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        self.stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the clock at the end of a head, start it at the beginning of the next."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self.stop_clock()
        elif self._waiter is not None and not self._waiter.done() and self.occupant is None:
            # nothing is being served, so this was a part of a head
            self._begun = True
            if self._late is None:
                self._late = self._loop.call_later(self._head_seconds, self._give_up)

    def renew_parser(self) -> None:
        """Parse what comes next as the beginning of a request, whatever has come before."""
        if self._parser is not None:
            self._parser = HttpRequestParser(
                self,
                self._loop,
                self._read_bufsize,
                max_line_size=self.max_line_size,
                max_field_size=self.max_field_size,
                max_headers=self.max_headers,
                payload_exception=RequestPayloadError,
                auto_decompress=False,
                max_msg_queue_size=self._max_msg_queue_size,
            )

    def stop_clock(self) -> None:
        """No head is waited for."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
            self._begun = False

    def _give_up(self) -> None:
        self._late = None
        waiter = self._waiter
        if not self._begun or waiter is None or waiter.done():
            self.force_close()
            return
        error = HeadTimeoutError()
        self._messages.append((_ErrInfo(408, error, error.message), EMPTY_PAYLOAD))
        waiter.set_result(None)
