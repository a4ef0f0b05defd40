"""Which web pages may call ollad: what browsers are told (Fetch standard, "CORS protocol").

Credentials of the browser's own, such as cookies, are never asked for: a page sends its key itself,
so ``*`` is no more than it says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Cors"]

Headers = tuple[tuple[str, str], ...]

_ANY: Final = "*"
_FIELD_NAMES: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,1024}")
_ASKED_USUALLY: Final = "Authorization, Content-Type, X-API-Key"
_METHODS: Final = "GET, HEAD, POST, PUT"
_SECONDS: Final = 600  # for which a browser remembers; as long as most will
_EXPOSED: Final = (
    "Access-Control-Expose-Headers",
    # all that ollad says of a response
    (
        "Retry-After, WWW-Authenticate, X-Olla-Backend-Type, X-Olla-Endpoint, "
        "X-Olla-Ignored-Params, "
        "X-Olla-Model, X-Olla-Request-ID, X-Olla-Response-Time, X-SGLang-Cache-Hit, "
        "X-SGLang-Spec-Decode, x-request-id"
    ),
)
_VARY: Final = ("Vary", "Origin")


class Cors:
    """The rules of ``server.cors_origins``.

    Args:
        origins: those that are allowed, in lower case, or ``*``.

    Attributes:
        enabled: whether any is allowed; nothing need be asked otherwise.
    """

    __slots__ = ("_any", "_origins", "enabled")

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self._any = _ANY in self._origins
        self.enabled = bool(self._origins)

    def __repr__(self) -> str:
        return f"<Cors {', '.join(sorted(self._origins)) or 'off'}>"

    def headers(self, origin: str | None) -> Headers:
        """What a response carries besides, if ``enabled``.

        Args:
            origin: the request's ``Origin``.
        """
        if self._any:
            return (("Access-Control-Allow-Origin", _ANY), _EXPOSED)
        if origin is None or origin.lower() not in self._origins:
            return (_VARY,)
        return (("Access-Control-Allow-Origin", origin), _EXPOSED, _VARY)

    def preflight(self, origin: str | None, method: str | None, names: str | None) -> Headers:
        """The answer to a browser's question whether it may send a request.

        Whether the request itself would be answered is not told: that needs the key, which the
        question comes without.

        Args:
            origin: the question's ``Origin``.
            method: its ``Access-Control-Request-Method``.
            names: its ``Access-Control-Request-Headers``.

        Returns:
            Headers of a 204; none if it is no such question, or not from an allowed origin.
        """
        allowed = self._any or (origin or "").lower() in self._origins
        if not (origin and method and allowed):
            return ()
        if names is None or not _FIELD_NAMES.fullmatch(names):
            names = _ASKED_USUALLY
        return (
            ("Access-Control-Allow-Origin", _ANY if self._any else origin),
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", names),
            ("Access-Control-Max-Age", str(_SECONDS)),
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        )
