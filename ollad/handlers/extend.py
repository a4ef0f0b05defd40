"""``POST /extend``: continue a conversation.

SGLang has no such route. Unless a backend does, ollad keeps what was said under each ``rid`` and
sends all of it with the new text as one ``/generate``, whichever backend is best: the radix cache
makes the old part cheap, and the conversation outlives the backend that held it.

A backend with an ``/extend`` of its own knows a conversation only if it began there, and by the
``rid`` that ollad gave it; any other conversation of ollad's is continued by ollad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from ollad.affinity import AFFINITY, Held
from ollad.errors import BadRequestError
from ollad.gateway import GATEWAY
from ollad.generation import GENERATE, context_tokens, elapsed_milliseconds, generated_text
from ollad.intake import read_call
from ollad.jsontext import replace_members
from ollad.native import relay_native
from ollad.record import RECORD
from ollad.serving import relay_call
from ollad.sglang.annotate import completion_text, meta_member
from ollad.sglang.parameters import refuse_several

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollad.call import Call
    from ollad.conversations import Conversation
    from ollad.gateway import Runtime
    from ollad.serving import Relayed
    from ollad.sglang.annotate import Usage

__all__ = ["extend"]

_ROUTE: Final = "/extend"


async def extend(request: web.Request) -> web.StreamResponse:
    """Continue the conversation that the body's ``rid`` names with its ``text``."""
    gateway = request.app[GATEWAY]
    runtime = gateway.runtime

    def usual_model(document: Mapping[str, Any]) -> str | None:
        rid = document.get("rid")
        if not isinstance(rid, str):
            return None
        if all(backend.native(_ROUTE) is False for backend in runtime.pool.routable()):
            # before anything is said of the model, which would be that of the conversation
            gateway.conversations.require(request[RECORD].tenant, rid)
        return gateway.conversations.model_of(request[RECORD].tenant, rid)

    call = await read_call(request, runtime, _ROUTE, identity=True, usual_model=usual_model)
    response = await _native(request, runtime, call)
    if response is not None:
        return response
    rid, text = _asked(call)
    conversation = gateway.conversations.begin(call.tenant, rid)
    extended: str | None = None
    tokens: int | None = None
    prompt = conversation.text + text
    try:
        upstream = _generate_call(call, prompt)
        relayed = await relay_call(request, runtime, upstream, GENERATE)
        completion = generated_text(relayed, prompt)
        if completion is not None:
            extended, tokens = prompt + completion, context_tokens(request[RECORD].usage)
        return _reply(request, relayed, conversation, text) or relayed.response
    finally:
        gateway.conversations.end(conversation, extended, tokens)


async def _native(request: web.Request, runtime: Runtime, call: Call) -> web.StreamResponse | None:
    """Have a backend extend the conversation; None if ollad has to."""
    conversations = request.app[GATEWAY].conversations
    rid = call.rid or ""
    holder = request.app[AFFINITY].find(Held.CONVERSATION, call.tenant, rid)
    backend = None if holder is None else runtime.pool.get(holder.backend)
    if holder is None or backend is None or not backend.routable or not backend.native(_ROUTE):
        if conversations.has(call.tenant, rid):
            return None
        return await relay_native(request, runtime, call, _ROUTE, GENERATE)
    body = replace_members(call.body, {"rid": orjson.dumps(holder.key)})
    there = call._replace(pinned=backend.name, body=body)
    response = await relay_native(request, runtime, there, _ROUTE, GENERATE)
    if response is not None:
        conversations.forget(call.tenant, rid)  # it goes on there, unseen
    return response


def _asked(call: Call) -> tuple[str, str]:
    """The conversation and the new text."""
    document = call.document or {}
    if call.rid is None:
        raise BadRequestError(
            "'rid' must name the conversation to extend: the rid of an earlier /generate.",
            param="rid",
        )
    text = document.get("text")
    if not isinstance(text, str) or not text:
        raise BadRequestError("'text' must be the text to add, not empty.", param="text")
    refuse_several(document, "")
    return call.rid, text


def _generate_call(call: Call, prompt: str) -> Call:
    """The same request as a ``/generate`` over the whole conversation, with an id of its own."""
    target = "/generate" + call.target.removeprefix(_ROUTE)
    body = replace_members(call.body, {"text": orjson.dumps(prompt)})
    return call._replace(target=target, body=body)


def _reply(
    request: web.Request, relayed: Relayed, conversation: Conversation, text: str
) -> web.Response | None:
    """The page's reply: the new text with its completion, and figures of the new part.

    None for what is passed on as it came: streams and errors.
    """
    usage = request[RECORD].usage
    document = relayed.document
    if document is None or usage is None:
        return None
    completion = completion_text(document, conversation.text + text)
    if completion is None:
        return None
    meta = meta_member(
        usage,
        request_id=request[RECORD].request_id,
        rid=conversation.rid,
        total_ms=elapsed_milliseconds(request),
        new_tokens=_new_tokens(usage, conversation),
        context_length=context_tokens(usage),
    )
    body = orjson.dumps(
        {
            "text": text + completion,
            "meta": orjson.Fragment(meta),
            "meta_info": document.get("meta_info"),
        }
    )
    return web.Response(body=body, content_type="application/json")


def _new_tokens(usage: Usage, conversation: Conversation) -> int | None:
    """Tokens of the text that was added, as far as both figures are known."""
    if usage.prompt_tokens is None or conversation.tokens is None:
        return None
    return max(0, usage.prompt_tokens - conversation.tokens)
