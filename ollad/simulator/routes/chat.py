"""``POST /v1/chat/completions`` (SGLang entrypoints/openai/serving_chat.py)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.simulator.conversation import UnsupportedContentError, render
from ollad.simulator.generations import usage
from ollad.simulator.meta import cached_details, meta_info, metadata
from ollad.simulator.openai import respond, wanted
from ollad.simulator.refusals import invalid, openai_error, problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.simulator.generations import Generation, Generations
    from ollad.simulator.refusals import Refusal
    from ollad.simulator.replies import Responder
    from ollad.simulator.service import Service

__all__ = ["answer"]

_ROUTE: Final = "/v1/chat/completions"
_ROLES: Final = ("system", "assistant", "tool", "function", "developer", "latest_reminder", "root")
_DELTA_END: Final = b'},"logprobs":null,"finish_reason":null,"matched_stop":null}]'


async def answer(
    service: Service, body: dict[str, Any], responder: Responder
) -> web.StreamResponse:
    """Answer a chat."""
    _check(body)
    options = service.options
    try:
        prompt = render(body, image_size=options.image_tokens if options.vision else None)
    except UnsupportedContentError as error:
        raise openai_error(str(error)) from None
    room = max(0, service.longest - len(prompt.tokens))
    generations, _ = wanted(service, body, [prompt.tokens], room, prompt.images)
    return await respond(
        service,
        generations,
        responder,
        document=lambda group: _reply(service, body, group),
        stream=(lambda group: _stream(service, body, group, responder))
        if body.get("stream")
        else None,
    )


def _check(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if "messages" not in body:
        shown = {**body, "tool_choice": "none"}
        raise _invalid(problem("missing", ("body", "messages"), "Field required", shown))
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        message = "Input should be a valid list"
        raise _invalid(problem("list_type", ("body", "messages"), message, messages))
    if not messages:
        raise openai_error("Messages cannot be empty.")
    for index, item in enumerate(messages):
        role = item.get("role")
        if not isinstance(role, str) or role.lower() not in {*_ROLES, "user"}:
            roles = ", ".join(map(repr, _ROLES))
            message = f"Value error, 'role' must be one of {roles} (case-insensitive)."
            raise _invalid(problem("value_error", ("body", "messages", index), message, role))
    if not isinstance(model := body.get("model", ""), str):
        message = "Input should be a valid string"
        raise _invalid(problem("string_type", ("body", "model"), message, model))


def _invalid(wrong: dict[str, Any]) -> Refusal:
    return invalid(_ROUTE, "POST", [wrong])


def _reply(service: Service, body: Mapping[str, Any], group: Generations) -> dict[str, Any]:
    items = group.items
    choices = []
    for item in items:
        choice = {
            "index": item.index,
            "message": {"role": "assistant", "content": item.text, "reasoning_content": None},
            "logprobs": None,
            "finish_reason": item.reason,
            "matched_stop": item.matched,
        }
        if body.get("return_meta_info"):
            choice["meta_info"] = meta_info(service, item)
        choices.append(choice)
    reply = {
        "id": items[0].rid,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", "default"),
        "choices": choices,
        "usage": usage(items, len(items), report=service.options.cache_report),
        "metadata": metadata(items),
    }
    if body.get("return_cached_tokens_details") and (details := cached_details(items[0])):
        reply["sglext"] = {"cached_tokens_details": details}
    return reply


async def _stream(
    service: Service, body: Mapping[str, Any], group: Generations, responder: Responder
) -> web.StreamResponse:
    stream_options = body.get("stream_options") or {}
    continuous = bool(stream_options.get("continuous_usage_stats"))
    created = int(time.time())
    sent: dict[int, int] = {}
    async for item in group.progress():
        head = _head(item, created, body)
        if item.index not in sent:
            sent[item.index] = 0
            await responder.raw(_chunk(head, item, b'"role":"assistant","content":""'))
        text = item.text
        if len(text) > sent[item.index]:
            content = b'"content":' + orjson.dumps(text[sent[item.index] :])
            sent[item.index] = len(text)
            tail = b""
            if continuous:
                figures = usage([item], 1, report=service.options.cache_report)
                tail = b',"usage":' + orjson.dumps(figures)
            await responder.raw(_chunk(head, item, content, tail))
        if item.over:
            await responder.raw(_last(head, item))
    head = _head(group.items[0], created, body)
    if body.get("return_cached_tokens_details") and (details := cached_details(group.items[0])):
        extension = orjson.dumps({"cached_tokens_details": details})
        await responder.raw(head + b'],"usage":null,"sglext":' + extension + b"}\n\n")
    if stream_options.get("include_usage"):
        figures = usage(group.items, len(group.items), report=service.options.cache_report)
        await responder.raw(head + b'],"usage":' + orjson.dumps(figures) + b"}\n\n")
    return await responder.done()


def _head(item: Generation, created: int, body: Mapping[str, Any]) -> bytes:
    """An event up to its choices."""
    head = {"id": item.rid, "object": "chat.completion.chunk", "created": created}
    text = orjson.dumps({**head, "model": body.get("model", "default")})
    return b"data: " + text[:-1] + b',"choices":['


def _chunk(head: bytes, item: Generation, delta: bytes, tail: bytes = b"") -> bytes:
    start = b'{"index":%d,"delta":{"reasoning_content":null,' % item.index
    return head + start + delta + _DELTA_END + tail + b"}\n\n"


def _last(head: bytes, item: Generation) -> bytes:
    choice = {
        "index": item.index,
        "delta": {"reasoning_content": None},
        "logprobs": None,
        "finish_reason": item.reason,
        "matched_stop": item.matched,
    }
    return head + orjson.dumps(choice) + b"]}\n\n"
