"""``POST /v1/completions`` (SGLang entrypoints/openai/serving_completions.py)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ollad.simulator.generations import usage
from ollad.simulator.meta import metadata
from ollad.simulator.openai import respond, wanted
from ollad.simulator.prompts import prompts
from ollad.simulator.refusals import invalid, openai_error, problem
from ollad.simulator.tokens import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.simulator.generations import Generation, Generations
    from ollad.simulator.replies import Responder
    from ollad.simulator.service import Service

__all__ = ["answer"]

_ROUTE: Final = "/v1/completions"
_DEFAULT_MAX: Final = 16


async def answer(
    service: Service, body: dict[str, Any], responder: Responder
) -> web.StreamResponse:
    """Complete one prompt or several."""
    if "prompt" not in body:
        wrong = problem("missing", ("body", "prompt"), "Field required", body)
        raise invalid(_ROUTE, "POST", [wrong])
    texts = prompts(body["prompt"])
    if texts is None:
        message = "Input should be a valid string"
        wrong = problem("string_type", ("body", "prompt", "str"), message, body["prompt"])
        raise invalid(_ROUTE, "POST", [wrong])
    if not texts or not all(texts):
        raise openai_error("Prompt cannot be empty")
    generations, choices = wanted(service, body, texts, _DEFAULT_MAX)
    return await respond(
        service,
        generations,
        responder,
        document=lambda group: _reply(service, body, group, choices),
        stream=(lambda group: _stream(service, body, group, responder, choices))
        if body.get("stream")
        else None,
    )


def _choice(item: Generation, text: str) -> dict[str, Any]:
    return {
        "index": item.index,
        "text": text,
        "logprobs": None,
        "finish_reason": item.reason if item.over else None,
        "matched_stop": item.matched if item.over else None,
    }


def _echo(body: Mapping[str, Any], item: Generation) -> str:
    return decode(item.task.prompt) if body.get("echo") else ""


def _reply(
    service: Service, body: Mapping[str, Any], group: Generations, choices: int
) -> dict[str, Any]:
    return {
        "id": group.items[0].rid,
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.get("model", "default"),
        "choices": [_choice(item, _echo(body, item) + item.text) for item in group.items],
        "usage": usage(group.items, choices, report=service.options.cache_report),
        "metadata": metadata(group.items),
    }


async def _stream(
    service: Service,
    body: Mapping[str, Any],
    group: Generations,
    responder: Responder,
    choices: int,
) -> web.StreamResponse:
    stream_options = body.get("stream_options") or {}
    continuous = bool(stream_options.get("continuous_usage_stats"))
    created = int(time.time())

    def chunk(item: Generation, parts: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": item.rid, "object": "text_completion", "created": created}
        return {**head, "model": body.get("model", "default"), "choices": parts, "usage": None}

    sent: dict[int, int] = {}
    async for item in group.progress():
        text = item.text
        new = text[sent[item.index] :] if item.index in sent else _echo(body, item) + text
        sent[item.index] = len(text)
        document = chunk(item, [_choice(item, new)])
        if continuous:
            # The cached part is told in the last chunk only.
            document["usage"] = usage([item], 1, report=False)
        await responder.event(document)
    if stream_options.get("include_usage"):
        document = chunk(group.items[0], [])
        figures = usage(group.items, choices, report=service.options.cache_report)
        del figures["completion_tokens_details"]
        await responder.event({**document, "usage": figures})
    return await responder.done()
