"""``POST`` and ``PUT /generate``: SGLang's own interface.

A whole reply gets the page's ``meta`` beside SGLang's ``meta_info``; what was said is remembered
under its ``rid`` for ``/extend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.affinity import AFFINITY, Held, Holder
from ollad.gateway import GATEWAY
from ollad.generation import GENERATE, context_tokens, generated_text, relay, upstream_rid
from ollad.serving import Relaying
from ollad.sglang.annotate import meta_member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.call import Call
    from ollad.record import RequestRecord
    from ollad.serving import Relayed
    from ollad.sglang.annotate import Usage

__all__ = ["NATIVE", "generate"]


async def generate(request: web.Request) -> web.StreamResponse:
    """Relay a native generation, streamed or whole."""
    return await relay(request, NATIVE)


def _members(
    reply: Mapping[str, Any], usage: Usage, call: Call, record: RequestRecord, elapsed: int
) -> Mapping[str, bytes]:
    if "meta_info" not in reply:
        return {}
    meta = meta_member(
        usage,
        request_id=record.request_id,
        rid=call.rid or upstream_rid(reply),
        total_ms=elapsed,
    )
    return {"meta": meta}


def _remember(app: web.Application, call: Call, relayed: Relayed, record: RequestRecord) -> None:
    """Keep the conversation, where there is one text that can be continued."""
    prompt = None if call.document is None else call.document.get("text")
    text = generated_text(relayed, prompt) if isinstance(prompt, str) else None
    if not isinstance(prompt, str) or text is None:
        return
    known_upstream_as = upstream_rid(relayed.final)
    rid = call.rid or known_upstream_as
    if rid is None:
        return
    gateway = app[GATEWAY]
    backend = gateway.runtime.pool.get(record.endpoint or "")
    if backend is not None and known_upstream_as is not None and backend.native("/extend"):
        holder = Holder(backend.name, known_upstream_as)
        app[AFFINITY].remember(Held.CONVERSATION, call.tenant, rid, holder)
    gateway.conversations.put(
        call.tenant,
        rid,
        text=prompt + text,
        model=call.model,
        tokens=context_tokens(record.usage),
    )


NATIVE: Final = Relaying("/generate", GENERATE, identity=True, members=_members, finished=_remember)
