"""``/v1/responses``: OpenAI's Responses, kept on the backend that has the id.

SGLang stores responses in the memory of one server, so whatever refers to one goes back there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.affinity import AFFINITY, Held, Holder
from ollad.call import Call
from ollad.errors import NotFoundError
from ollad.gateway import GATEWAY
from ollad.intake import inbound_of, read_body, read_call
from ollad.record import RECORD
from ollad.replies import Reading
from ollad.serving import relay_call
from ollad.sglang.annotate import openai_usage
from ollad.sglang.events import StreamScanner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

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
        holder = affinity.find(Held.RESPONSE, call.tenant, previous)
        if holder is not None and runtime.pool.get(holder.backend) is not None:
            call = call._replace(pinned=holder.backend)
        elif call.tenant:
            raise _unknown(previous, "previous_response_id")

    def remember(reply: Mapping[str, Any] | None) -> None:
        created, name = _response_id(reply), request[RECORD].endpoint
        if created is not None and name is not None:
            affinity.remember(Held.RESPONSE, call.tenant, created, Holder(name, created))

    def started(first: bytes) -> None:
        # Before its end, so that a response under way can be cancelled.
        scanner = StreamScanner()
        scanner.feed(first)
        remember(scanner.first_document())

    relayed = await relay_call(request, runtime, call, _GENERATED, started=started)
    scanner = relayed.sink.scanner
    remember(relayed.document if scanner is None else scanner.first_document())
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
    body = await read_body(request, runtime.config.server)
    record = request[RECORD]
    holder = request.app[AFFINITY].find(Held.RESPONSE, record.tenant, identifier)
    names = [backend.name for backend in runtime.pool]
    if holder is not None and holder.backend in names:
        names = [holder.backend]
    elif len(names) > 1 or record.tenant:
        raise _unknown(identifier, "id")  # with keys, another's perhaps
    query = request.rel_url.raw_query_string
    call = Call(
        family=record.family,
        method="POST" if action else "GET",
        target=f"{_ROUTE}/{identifier}{action}" + (f"?{query}" if query else ""),
        body=body,
        inbound=inbound_of(request, runtime),
        pinned=names[0],
    )
    relayed = await relay_call(request, runtime, call, _STORED)
    return relayed.response


def _unknown(identifier: str, param: str) -> NotFoundError:
    return NotFoundError(
        f"No response '{identifier:.80}' was made here.", param=param, code="response_not_found"
    )


def _response_id(reply: Mapping[str, Any] | None) -> str | None:
    """The id of a response, whole or as the events of a stream wrap it."""
    if reply is None:
        return None
    inner = reply.get("response")
    identifier = (inner if isinstance(inner, dict) else reply).get("id")
    return identifier if isinstance(identifier, str) else None
