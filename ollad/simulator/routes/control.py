"""Tokens and text, and what an operator does: flush the cache, abort requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from ollad.simulator.options import FailMode
from ollad.simulator.prompts import prompts, token_list
from ollad.simulator.refusals import invalid, problem, text_error
from ollad.simulator.replies import UNTYPED, empty, json_reply
from ollad.simulator.requests import check_json_type, read_object
from ollad.simulator.tokens import decode, encode

if TYPE_CHECKING:
    from ollad.simulator.service import Service

__all__ = ["abort", "detokenize", "fail", "flush", "tokenize"]


async def tokenize(service: Service, request: web.Request) -> web.StreamResponse:
    """``/tokenize``."""
    check_json_type(request)
    body = await read_object(request)
    prompt = body.get("prompt")
    limit = service.options.context_length
    if isinstance(prompt, str):
        tokens = encode(prompt)
        return json_reply({"tokens": tokens, "count": len(tokens), "max_model_len": limit})
    if isinstance(prompt, list) and all(isinstance(text, str) for text in prompt):
        lists = prompts(prompt) or []
        counts = [len(tokens) for tokens in lists]
        return json_reply({"tokens": lists, "count": counts, "max_model_len": limit})
    message = "Exactly one of 'prompt' or 'messages' must be provided."
    wrong = problem("value_error", ("body",), f"Value error, {message}", body)
    raise invalid(request.path, "POST", [wrong])


async def detokenize(_service: Service, request: web.Request) -> web.StreamResponse:
    """``/detokenize``."""
    check_json_type(request)
    body = await read_object(request)
    given = body.get("tokens")
    tokens = token_list(given)
    if tokens is not None:
        return json_reply({"text": decode(tokens)})
    lists = [token_list(item) for item in given] if isinstance(given, list) else []
    texts = [decode(item) for item in lists if item is not None]
    if lists and len(texts) == len(lists):
        return json_reply({"text": texts})
    problems = [
        problem("list_type", ("body", "tokens", kind), "Input should be a valid list", given)
        for kind in ("list[int]", "list[list[int]]")
    ]
    raise invalid(request.path, "POST", problems)


async def flush(service: Service, _request: web.Request) -> web.StreamResponse:
    """``/flush_cache``: 400 while requests run or wait."""
    service.driver.advance()
    done = service.engine.flush()
    text = (
        f"{'Cache flushed.' if done else 'Failed to flush cache.'}\n"
        "Please check backend logs for more details. (When there are running or waiting requests, "
        "the operation will not be performed.)\n"
    )
    response = web.Response(status=200 if done else 400, body=text.encode())
    response[UNTYPED] = True
    return response


async def abort(service: Service, request: web.Request) -> web.StreamResponse:
    """``/abort_request``: every request whose rid begins with the one given; always 200."""
    body = await read_object(request)
    rid = body.get("rid")
    if body.get("abort_all"):
        service.abort("")
    elif isinstance(rid, str) and rid:
        service.abort(rid)
    return empty(200)


async def fail(service: Service, request: web.Request) -> web.StreamResponse:
    """``/simulator/faults``, which no real server has: fail requests from now on, or no longer."""
    body = await read_object(request)
    rate, mode = body.get("rate"), body.get("mode", FailMode.STATUS)
    known = [one.value for one in FailMode]
    if not isinstance(rate, (int, float)) or not 0 <= rate <= 1 or mode not in known:
        raise text_error(f"'rate' is a number from 0 to 1, 'mode' one of {', '.join(known)}")
    service.faults.change(rate, FailMode(mode))
    return empty()
