"""JSON answers of ollad's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

__all__ = ["json_response"]


def json_response(document: object, status: int = 200) -> web.Response:
    """Answer with ``document`` as compact JSON.

    Raises:
        TypeError: it holds something that JSON has no form for.
    """
    return web.Response(
        body=orjson.dumps(document, default=_plain), status=status, content_type="application/json"
    )


def _plain(value: Any) -> Any:
    """Read-only mappings are not known to orjson."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
