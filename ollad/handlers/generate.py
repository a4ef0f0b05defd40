"""``POST`` and ``PUT /generate``: SGLang's own interface.

A whole reply gets the page's ``meta`` beside SGLang's ``meta_info``; what was said is remembered
under its ``rid`` for ``/extend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollad.affinity import AFFINITY, Held, Holder
from ollad.gateway import GATEWAY
from ollad.generation import (
    GENERATE,
    context_tokens,
    elapsed_milliseconds,
    generated_text,
    upstream_rid,
)
from ollad.intake import read_call
from ollad.record import RECORD
from ollad.serving import relay_call
from ollad.sglang.annotate import meta_member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.call import Call
    from ollad.serving import Relayed
    from ollad.sglang.annotate import Usage

__all__ = ["generate"]


async def generate(request: web.Request) -> web.StreamResponse:
    """Relay a native generation, streamed or whole."""
    runtime = request.app[GATEWAY].runtime
    call = await read_call(request, runtime, "/generate", identity=True)
    request_id = request[RECORD].request_id

    def members(reply: Mapping[str, Any], usage: Usage) -> Mapping[str, bytes]:
        if "meta_info" not in reply:
            return {}
        meta = meta_member(
            usage,
            request_id=request_id,
            rid=call.rid or upstream_rid(reply),
            total_ms=elapsed_milliseconds(request),
        )
        return {"meta": meta}

    relayed = await relay_call(request, runtime, call, GENERATE, members)
    _remember(request, call, relayed)
    return relayed.response


def _remember(request: web.Request, call: Call, relayed: Relayed) -> None:
    """Keep the conversation, where there is one text that can be continued."""
    prompt = None if call.document is None else call.document.get("text")
    text = generated_text(relayed, prompt) if isinstance(prompt, str) else None
    if not isinstance(prompt, str) or text is None:
        return
    known_upstream_as = upstream_rid(relayed.final)
    rid = call.rid or known_upstream_as
    if rid is None:
        return
    record = request[RECORD]
    backend = request.app[GATEWAY].runtime.pool.get(record.endpoint or "")
    if backend is not None and known_upstream_as is not None and backend.native("/extend"):
        holder = Holder(backend.name, known_upstream_as)
        request.app[AFFINITY].remember(Held.CONVERSATION, call.tenant, rid, holder)
    request.app[GATEWAY].conversations.put(
        call.tenant,
        rid,
        text=prompt + text,
        model=call.model,
        tokens=context_tokens(record.usage),
    )
