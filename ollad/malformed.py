"""What to tell a client whose request is no HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)

from ollad.errors import (
    BadRequestError,
    HeadersTooLargeError,
    RequestTimeoutError,
    UriTooLongError,
)

if TYPE_CHECKING:
    from ollad.errors import GatewayError

__all__ = [
    "LONGEST_FIELD",
    "LONGEST_TARGET",
    "HeadTimeoutError",
    "InvalidHostError",
    "malformed",
]

LONGEST_TARGET: Final = 8190
LONGEST_FIELD: Final = 16380
"""Bytes of one header's name and value; not the same as for the target, so that errors differ."""


class HeadTimeoutError(HttpProcessingError):
    """The head of a request did not arrive in time; handled as one that could not be parsed."""

    code = 408
    message = "Request Timeout"


class InvalidHostError(BadHttpMessage):
    """The value of ``Host`` is none."""


def malformed(error: HttpProcessingError) -> GatewayError:
    """What to tell a client whose request is no HTTP, without quoting it."""
    match error:
        case HeadTimeoutError():
            return RequestTimeoutError(
                "The headers of the request did not arrive in time (server.header_timeout)."
            )
        case LineTooLong(args=(_, limit, *_)) if limit == LONGEST_TARGET:
            return UriTooLongError(f"The request target is longer than {LONGEST_TARGET} bytes.")
        case LineTooLong():
            return HeadersTooLargeError(f"A header is longer than {LONGEST_FIELD} bytes.")
        case InvalidHeader():
            what = "one of its headers is invalid"
        case InvalidURLError():
            what = "its target is invalid"
        case InvalidHostError():
            what = "its Host is invalid"
        case BadHttpMethod():
            what = "its method is invalid (was TLS meant? This port speaks plain HTTP)"
        case BadStatusLine():
            what = "its request line is invalid, or not of HTTP/1"
        case _:
            what = "its headers or the framing of its body are invalid"
    return BadRequestError(f"This is no valid HTTP/1.1 request: {what}.", code="malformed_http")
