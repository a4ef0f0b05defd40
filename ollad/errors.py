"""The errors ollad raises by itself, each with the HTTP status it becomes.

The tree is cut by what the client can do about it. A handler raises, the middleware turns the
error into OpenAI's envelope ``{"error": {"message", "type", "param", "code"}}``. Messages are
written for the person who sent the request: they never name a backend's address.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "OUR_MISTAKE",
    "BackendError",
    "BackendTimeoutError",
    "BadRequestError",
    "ConfigError",
    "ConflictError",
    "ForbiddenError",
    "GatewayError",
    "HeadersTooLargeError",
    "ListenError",
    "MethodNotAllowedError",
    "NotFoundError",
    "OlladError",
    "PayloadTooLargeError",
    "RequestTimeoutError",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedMediaTypeError",
    "UriTooLongError",
]

OUR_MISTAKE: Final = "ollad made a mistake; its log has the details."
"""What a client is told of an error that nobody foresaw (500)."""

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class OlladError(Exception):
    """Anything that ollad itself reports."""


class ConfigError(OlladError):
    """The configuration cannot be used; ``problems`` holds every reason, one line each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ListenError(OlladError):
    """The address cannot be listened on, and why."""


class GatewayError(OlladError):
    """An HTTP error answer.

    Attributes:
        status: HTTP status code.
        kind: OpenAI's ``error.type``.
        code: OpenAI's ``error.code``, a word a program can test.
        param: the field or parameter at fault, or None.
        headers: response headers that belong to the error (``Allow``, ``Retry-After``).
    """

    status = 500
    kind = "api_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers
        if code is not None:
            self.code = code

    def envelope(self) -> Mapping[str, Any]:
        """The error as OpenAI's clients expect it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


class BadRequestError(GatewayError):
    """The request cannot be understood or is not allowed to ask for this (400)."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"


class UnauthorizedError(GatewayError):
    """No key, or one that is not known (401); ``WWW-Authenticate`` says what is wanted."""

    status = 401
    kind = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(GatewayError):
    """The key may not do this (403)."""

    status = 403
    kind = "invalid_request_error"
    code = "forbidden"


class NotFoundError(GatewayError):
    """No such route, model, conversation or endpoint (404)."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class MethodNotAllowedError(GatewayError):
    """The route exists but not with this method (405); ``Allow`` lists the methods."""

    status = 405
    kind = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeoutError(GatewayError):
    """The request took too long to arrive (408)."""

    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class ConflictError(GatewayError):
    """Another request is working on the same conversation (409)."""

    status = 409
    kind = "invalid_request_error"
    code = "conflict"


class PayloadTooLargeError(GatewayError):
    """The request body is over the limit (413)."""

    status = 413
    kind = "invalid_request_error"
    code = "payload_too_large"


class UriTooLongError(GatewayError):
    """The request target is over the limit (414)."""

    status = 414
    kind = "invalid_request_error"
    code = "uri_too_long"


class UnsupportedMediaTypeError(GatewayError):
    """The request body has a content type or encoding that is not taken (415)."""

    status = 415
    kind = "invalid_request_error"
    code = "unsupported_media_type"


class TooManyRequestsError(GatewayError):
    """The key has used up what it may have for now (429); carries ``Retry-After``."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


class HeadersTooLargeError(GatewayError):
    """A header is over the limit (431)."""

    status = 431
    kind = "invalid_request_error"
    code = "headers_too_large"


class BackendError(GatewayError):
    """The backend broke the exchange before the first byte of a reply (502)."""

    status = 502
    kind = "api_error"
    code = "backend_error"


class UnavailableError(GatewayError):
    """No backend can take the request now (503); carries ``Retry-After``."""

    status = 503
    kind = "api_error"
    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        retry_after: int = 1,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, headers={"Retry-After": str(retry_after)})


class BackendTimeoutError(GatewayError):
    """The backend did not answer in time (504)."""

    status = 504
    kind = "api_error"
    code = "timeout"
