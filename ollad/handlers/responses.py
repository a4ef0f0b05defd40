"""``/v1/responses``: OpenAI's Responses, kept on the backend that has the id.

SGLang stores responses in the memory of one server, so whatever refers to one goes back there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ollad.affinity import AFFINITY
from ollad.call import Call
from ollad.errors import NotFoundError
from ollad.gateway import GATEWAY
from ollad.intake import inbound_of, read_body, read_call
from ollad.record import RECORD
from ollad.replies import Reading
from ollad.serving import relay_call
from ollad.sglang.annotate import openai_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.gateway import Runtime

__all__ = ["cancel_response", "create_response", "show_response"]

_ROUTE: Final = "/v1/responses"
_GENERATED: Final = Reading("responses", openai_usage)
_STORED: Final = Reading("responses", None, cached=False)


async def create_response(request: web.Request) -> web.StreamResponse:
    """Relay a new response; one that continues another goes to the backend that has it."""
    runtime = request.app[GATEWAY].runtime
    affinity = request.app[AFFINITY]
    call = await read_call(request, runtime, _ROUTE, identity=True)
    previous = (call.document or {}).get("previous_response_id")
    if isinstance(previous, str):
        call = replace(call, pinned=_routable(runtime, affinity.find(call.tenant, previous)))
    relayed = await relay_call(request, runtime, call, _GENERATED)
    created = _response_id(relayed.final)
    name = request[RECORD].endpoint
    if relayed.complete and created is not None and name is not None:
        affinity.remember(call.tenant, created, name)
    return relayed.response


async def show_response(request: web.Request) -> web.StreamResponse:
    """Relay a look at a stored response."""
    return await _relay_stored(request, "")


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """Relay the cancelling of a response under way."""
    return await _relay_stored(request, "/cancel")


async def _relay_stored(request: web.Request, action: str) -> web.StreamResponse:
    runtime = request.app[GATEWAY].runtime
    identifier = request.match_info["id"]
    body = await read_body(request, runtime.config.server.max_body_size)
    record = request[RECORD]
    holder = request.app[AFFINITY].find("", identifier)
    if holder is None and len(runtime.pool) == 1:
        holder = next(iter(runtime.pool)).name
    if holder is None:
        raise NotFoundError(
            f"No response '{identifier:.80}' was made here.", param="id", code="response_not_found"
        )
    call = Call(
        family=record.family,
        method="POST" if action else "GET",
        target=f"{_ROUTE}/{identifier}{action}",
        body=body,
        inbound=inbound_of(request, runtime),
        pinned=holder,
    )
    relayed = await relay_call(request, runtime, call, _STORED)
    return relayed.response


def _routable(runtime: Runtime, name: str | None) -> str | None:
    """The backend's name while it takes requests; affinity yields to a backend that is out."""
    backend = None if name is None else runtime.pool.get(name)
    return name if backend is not None and backend.routable else None


def _response_id(reply: Mapping[str, Any] | None) -> str | None:
    """The id of a response, whole or as the last event of a stream wraps it."""
    if reply is None:
        return None
    inner = reply.get("response")
    identifier = (inner if isinstance(inner, dict) else reply).get("id")
    return identifier if isinstance(identifier, str) else None
