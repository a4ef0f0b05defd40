"""``POST /extend``: continue a conversation.

SGLang has no such route. Unless a backend does, ollad keeps what was said under each ``rid`` and
sends all of it with the new text as one ``/generate``, whichever backend is best: the radix cache
makes the old part cheap, and the conversation outlives the backend that held it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from ollad.errors import BadRequestError
from ollad.gateway import GATEWAY
from ollad.generation import GENERATE, context_tokens, elapsed_milliseconds, generated_text
from ollad.intake import read_call
from ollad.native import relay_native
from ollad.record import RECORD
from ollad.serving import relay_call
from ollad.sglang.annotate import meta_member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollad.call import Call
    from ollad.conversations import Conversation
    from ollad.serving import Relayed
    from ollad.sglang.annotate import Usage

__all__ = ["extend"]

_ROUTE: Final = "/extend"


async def extend(request: web.Request) -> web.StreamResponse:
    """Continue the conversation that the body's ``rid`` names with its ``text``."""
    gateway = request.app[GATEWAY]
    runtime = gateway.runtime

    def usual_model(document: Mapping[str, Any]) -> str | None:
        return gateway.conversations.model_of("", str(document.get("rid")))

    call = await read_call(request, runtime, _ROUTE, identity=True, usual_model=usual_model)
    response = await relay_native(request, runtime, call, _ROUTE, GENERATE)
    if response is not None:
        return response
    rid, text = _asked(call)
    conversation = gateway.conversations.begin(call.tenant, rid)
    extended: str | None = None
    tokens: int | None = None
    try:
        upstream = _generate_call(call, conversation.text + text)
        relayed = await relay_call(request, runtime, upstream, GENERATE)
        completion = generated_text(relayed)
        usage = request[RECORD].usage
        if relayed.complete and completion is not None:
            extended, tokens = conversation.text + text + completion, context_tokens(usage)
        if relayed.document is None or completion is None or usage is None:
            return relayed.response
        return _reply(request, relayed, rid, text + completion, usage, conversation)
    finally:
        gateway.conversations.end(conversation, extended, tokens)


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
    return call.rid, text


def _generate_call(call: Call, prompt: str) -> Call:
    """The same request as a ``/generate`` over the whole conversation, with an id of its own."""
    members = {name: value for name, value in (call.document or {}).items() if name != "rid"}
    target = "/generate" + call.target.removeprefix(_ROUTE)
    return replace(call, target=target, body=orjson.dumps({**members, "text": prompt}))


def _reply(
    request: web.Request,
    relayed: Relayed,
    rid: str,
    text: str,
    usage: Usage,
    conversation: Conversation,
) -> web.Response:
    """The page's reply: the new text with its completion, and figures of the new part."""
    meta = meta_member(
        usage,
        request_id=request[RECORD].request_id,
        rid=rid,
        total_ms=elapsed_milliseconds(request),
        new_tokens=_new_tokens(usage, conversation),
        context_length=context_tokens(usage),
    )
    document: Mapping[str, Any] = relayed.document or {}
    body = orjson.dumps(
        {"text": text, "meta": orjson.Fragment(meta), "meta_info": document.get("meta_info")}
    )
    return web.Response(body=body, content_type="application/json")


def _new_tokens(usage: Usage, conversation: Conversation) -> int | None:
    """Tokens of the text that was added, as far as both figures are known."""
    if usage.prompt_tokens is None or conversation.tokens is None:
        return None
    return max(0, usage.prompt_tokens - conversation.tokens)
