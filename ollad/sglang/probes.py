"""Which routes of SGLang tell what, and from which version on they exist.

A version is used only to leave out what it surely lacks; between the last version known to lack
a route and the first known to have it, a try decides. Versions were compared wheel by wheel.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "GET_LOAD",
    "GET_MODEL_INFO",
    "GET_SERVER_INFO",
    "HEALTH",
    "LOADS",
    "METRICS",
    "MODEL_INFO",
    "OPENAPI",
    "PAGE_ROUTES",
    "READY",
    "SERVER_INFO",
    "may_exist",
    "parse_version",
]

READY: Final = "/ready"
HEALTH: Final = "/health"
LOADS: Final = "/v1/loads?include=core,memory,spec"
GET_LOAD: Final = "/get_load"
METRICS: Final = "/metrics"
SERVER_INFO: Final = "/server_info"
GET_SERVER_INFO: Final = "/get_server_info"
MODEL_INFO: Final = "/model_info"
GET_MODEL_INFO: Final = "/get_model_info"
OPENAPI: Final = "/openapi.json"

PAGE_ROUTES: Final = frozenset({"/batch", "/extend", "/v1/chat/completions/vision"})
"""POST routes of the API page that no released SGLang has."""

Version = tuple[int, int, int]

_LACKED_UP_TO: Final[dict[str, Version]] = {
    READY: (0, 5, 18),
    LOADS: (0, 5, 7),
    GET_LOAD: (0, 4, 6),
    SERVER_INFO: (0, 5, 5),
    MODEL_INFO: (0, 5, 5),
}
_GONE_FROM: Final[dict[str, Version]] = {GET_LOAD: (0, 5, 23)}
_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})", re.ASCII)


def parse_version(version: str | None) -> Version | None:
    """``0.4.10.post2`` as (0, 4, 10); None for what is no release number."""
    match = _VERSION.match(version) if version else None
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def may_exist(route: str, version: str | None) -> bool:
    """Whether a server of this version may have ``route``; True when the version is unknown."""
    release = parse_version(version)
    if release is None:
        return True
    if route in _LACKED_UP_TO and release <= _LACKED_UP_TO[route]:
        return False
    return not (route in _GONE_FROM and release >= _GONE_FROM[route])
