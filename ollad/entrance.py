"""What a request goes through on its way in and out where ollad is guarded: origin and key.

Nothing here is called while there are neither keys nor origins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import hdrs, web

from ollad.announcement import PREFIX
from ollad.errors import BadRequestError, ForbiddenError
from ollad.jsontext import append_members, replace_members

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import CIMultiDictProxy

    from ollad.auth import Key
    from ollad.gateway import Gateway
    from ollad.record import RequestRecord

__all__ = ["check_adapters", "enter", "leave", "salted"]

_OPEN: Final = frozenset({"/internal/health", "/internal/ready", "/version", "/metrics"})
"""Paths that need no key, for those who watch over the service."""

_COSTLY: Final = frozenset({hdrs.METH_POST, hdrs.METH_PUT})
"""Methods of requests that are counted against a key's limits."""

_UNSALTED: Final = frozenset(
    {
        "/classify",
        "/encode",
        "/v1/classify",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/rerank",
        "/v1/score",
    }
)
"""Routes that fill a radix cache and for which SGLang takes no ``cache_salt`` (0.5.23)."""


def enter(
    method: str, headers: CIMultiDictProxy[str], record: RequestRecord, gateway: Gateway
) -> web.StreamResponse | None:
    """Let a request in, or answer the question of a browser whether it would be.

    Args:
        method: of the request.
        headers: of the request.
        record: of the request.
        gateway: the running daemon.

    Returns:
        The answer to a preflight request; None for any other, which may go on.

    Raises:
        UnauthorizedError: a key is wanted, and there is none or an unknown one.
        TooManyRequestsError: the key is at one of its limits.
    """
    runtime = gateway.runtime
    cors, gate = runtime.cors, runtime.gate
    if cors.enabled:
        origin = headers.get(hdrs.ORIGIN)
        record.cors = cors.headers(origin)
        if method == hdrs.METH_OPTIONS:
            granted = cors.preflight(
                origin,
                headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD),
                headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS),
            )
            if granted:
                record.cors = granted
                return web.Response(status=204)
    if gate.closed and record.path not in _OPEN:
        key = record.key = gate.authenticate(headers)
        if method in _COSTLY and record.path.startswith(PREFIX):
            record.lease = key.meter.lease(key.name, gateway.clock())
    return None


def leave(record: RequestRecord, gateway: Gateway) -> None:
    """Give back what a request held, and have its key pay for its tokens."""
    gateway.bodies.give_back(record.held_bytes)
    lease, usage = record.lease, record.usage
    if lease is not None:
        lease.release()
        if usage is not None:
            lease.charge(usage.prompt_tokens, usage.completion_tokens, gateway.clock())


def check_adapters(document: Mapping[str, Any], key: Key) -> None:
    """Hold a request to the models of its key where it names an adapter beside its model.

    Raises:
        ForbiddenError: the key may not use it.
        BadRequestError: adapters are not named by strings.
    """
    if not key.models:
        return
    for field in ("lora_path", "lora_id"):
        named = document.get(field)
        for adapter in named if isinstance(named, list) else (named,):
            if adapter is None:
                continue
            if not isinstance(adapter, str):
                raise BadRequestError(f"'{field}' must name adapters by strings.", param=field)
            key.require(adapter)


def salted(
    body: bytes, document: Mapping[str, Any], key: Key, target: str
) -> tuple[bytes, dict[str, Any]]:
    """The request with the key's ``cache_salt``, which keeps its prompts apart in the caches.

    Args:
        body: the request's text.
        document: the same, parsed.
        key: whose request it is, one that is ``salted``.
        target: path on the backend.

    Raises:
        ForbiddenError: the prompts of this route cannot be kept apart.
        BadRequestError: the client's own ``cache_salt`` is none.
    """
    if target in _UNSALTED:
        raise ForbiddenError(
            f"The key '{key.name}' is kept apart in the backends' caches (cache_salt), which "
            f"SGLang cannot do for {target}.",
            code="cache_salt_unsupported",
        )
    salt = key.cache_salt(document.get("cache_salt"))
    edit = replace_members if "cache_salt" in document else append_members
    return edit(body, {"cache_salt": orjson.dumps(salt)}), {**document, "cache_salt": salt}
