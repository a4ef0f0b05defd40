"""What generation routes share: how their replies are read, and what ollad adds to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.gateway import GATEWAY
from ollad.intake import read_call
from ollad.record import RECORD
from ollad.replies import Reading
from ollad.serving import relay_call
from ollad.sglang.annotate import (
    completion_text,
    generate_usage,
    metrics_member,
    openai_usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.call import Call
    from ollad.record import RequestRecord
    from ollad.serving import Relayed, Relaying
    from ollad.sglang.annotate import Usage

__all__ = [
    "GENERATE",
    "OPENAI",
    "context_tokens",
    "elapsed_milliseconds",
    "generated_text",
    "relay",
    "upstream_rid",
    "usual_metrics",
]

OPENAI: Final = Reading("openai", openai_usage)
"""Replies of the OpenAI-compatible routes."""

GENERATE: Final = Reading("generate", generate_usage, tail=1024 * 1024)
"""Replies of ``/generate``; each event of a stream repeats the whole text and its token ids."""


def usual_metrics(
    reply: Mapping[str, Any], usage: Usage, _call: Call, _record: RequestRecord, elapsed: int
) -> Mapping[str, bytes]:
    """The page's ``metrics`` member of OpenAI-style generations."""
    return {} if "metrics" in reply else {"metrics": metrics_member(usage, elapsed)}


async def relay(request: web.Request, relaying: Relaying) -> web.StreamResponse:
    """Serve a request of a route that has nothing particular to it."""
    app = request.app
    runtime = app[GATEWAY].runtime
    call = await read_call(request, runtime, relaying.target, identity=relaying.identity)
    relayed = await relay_call(request, runtime, call, relaying.reading, relaying.members)
    if relaying.finished is not None:
        relaying.finished(app, call, relayed, request[RECORD])
    return relayed.response


def elapsed_milliseconds(request: web.Request) -> int:
    """Time since the request arrived, as the page's members give it."""
    return round((request.app[GATEWAY].clock() - request[RECORD].started) * 1000)


def upstream_rid(reply: Mapping[str, Any] | None) -> str | None:
    """The id under which SGLang ran a ``/generate`` request."""
    meta = None if reply is None else reply.get("meta_info")
    rid = meta.get("id") if isinstance(meta, dict) else None
    return rid if isinstance(rid, str) else None


def generated_text(relayed: Relayed, prompt: str) -> str | None:
    """The whole completion of a ``/generate`` over ``prompt``.

    Returns:
        None if it is not known, or if the generation did not come to its end.
    """
    if not relayed.complete:
        return None
    scanner = relayed.sink.scanner
    if scanner is not None:
        return scanner.generate_text()
    reply = relayed.document
    if reply is None or generate_usage(reply).finish_reason == "abort":
        return None
    return completion_text(reply, prompt)


def context_tokens(usage: Usage | None) -> int | None:
    """Tokens of prompt and completion together."""
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return usage.prompt_tokens + usage.completion_tokens
