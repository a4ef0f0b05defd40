"""What happens on a client's connection below the application.

aiohttp answers what is no HTTP, and what a handler could not answer, in words of its own and logs
the bytes it could not read, which may hold a key. Here such a request gets the same envelope,
headers, count and access line as any other.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from ollad.errors import (
    OUR_MISTAKE,
    BadRequestError,
    GatewayError,
    HeadersTooLargeError,
    UriTooLongError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    Refuse = Callable[[web.BaseRequest, GatewayError], web.Response]

__all__ = ["Connection"]

_LONGEST_TARGET: Final = 8190
_LONGEST_FIELD: Final = 16380
"""Bytes of one header's name and value; not the same as for the target, so that errors differ."""

_MOST_FIELDS: Final = 128


class Connection(web.RequestHandler):
    """One client's connection.

    Args:
        server: aiohttp's server, which keeps the connections and knows the application.
        loop: the running loop.
        logger: where unexpected errors go.
        refuse: makes the response to a request that did not reach the application.
    """

    __slots__ = ("_logger", "_refuse")

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        logger: FilteringBoundLogger,
        refuse: Refuse,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            auto_decompress=False,
            max_line_size=_LONGEST_TARGET,
            max_field_size=_LONGEST_FIELD,
            max_headers=_MOST_FIELDS,
        )
        self._logger = logger
        self._refuse = refuse

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
        case LineTooLong(args=(_, limit, *_)) if limit == _LONGEST_TARGET:
            return UriTooLongError(f"The request target is longer than {_LONGEST_TARGET} bytes.")
        case LineTooLong():
            return HeadersTooLargeError(f"A header is longer than {_LONGEST_FIELD} bytes.")
        case InvalidHeader():
            what = "one of its headers is invalid"
        case InvalidURLError():
            what = "its target is invalid"
        case BadHttpMethod():
            what = "its method is invalid (was TLS meant? This port speaks plain HTTP)"
        case BadStatusLine():
            what = "its request line is invalid, or not of HTTP/1"
        case _:
            what = "its headers or the framing of its body are invalid"
    return BadRequestError(f"This is no valid HTTP/1.1 request: {what}.", code="malformed_http")
