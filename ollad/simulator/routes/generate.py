"""``POST`` and ``PUT /generate``, SGLang's own route (entrypoints/http_server.py).

Its streams begin before the request is looked at, so that whatever is wrong with one comes as an
event after a 200. Texts are cumulative.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ollad.simulator.engine import QueueFullError
from ollad.simulator.generations import (
    DuplicateRidError,
    Generations,
    TooLongError,
    Wanted,
    check_length,
)
from ollad.simulator.meta import meta_info
from ollad.simulator.openai import queue_full
from ollad.simulator.prompts import prompts
from ollad.simulator.refusals import invalid, native, problem, text_error
from ollad.simulator.sampling import SamplingError, UnknownParameterError, native_sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from ollad.simulator.generations import Generation
    from ollad.simulator.replies import Responder
    from ollad.simulator.service import Service

__all__ = ["answer"]

_ROUTE: Final = "/generate"
_FULL: Final = "The request queue is full."


class _NativeError(Exception):
    """A request that cannot be; the message is SGLang's."""


async def answer(
    service: Service, body: dict[str, Any], responder: Responder
) -> web.StreamResponse:
    """Generate."""
    _check_types(body)
    stream = bool(body.get("stream"))
    try:
        if stream:
            await responder.open()
        if service.options.embedding:
            raise _NativeError("This model is an embedding model and does not generate.")  # noqa: TRY301 - one place answers all of them
        wanted, one = _wanted(service, body)
        responder.check_queue()
        with Generations(service, wanted, stream=stream) as group:
            if stream:
                return await _stream(service, group, responder, numbered=not one)
            await group.ended()
            replies = [_reply(service, item) for item in group.items]
            return await responder.document(replies[0] if one else replies)
    except QueueFullError:
        if stream:
            await responder.event(_full(service))
            return await responder.done()
        raise queue_full() from None
    except UnknownParameterError as error:
        if stream:
            return await _event_error(responder, str(error))
        raise text_error(str(error)) from None
    except (_NativeError, SamplingError, TooLongError, DuplicateRidError) as error:
        if stream:
            return await _event_error(responder, str(error))
        raise native(str(error)) from None


def _check_types(body: Mapping[str, Any]) -> None:
    text = body.get("text")
    if text is not None and not isinstance(text, (str, list)):
        problems = [
            problem("string_type", ("body", "text", "str"), "Input should be a valid string", text),
            problem(
                "list_type", ("body", "text", "list[str]"), "Input should be a valid list", text
            ),
        ]
        raise invalid(_ROUTE, "POST", problems)


def _wanted(service: Service, body: Mapping[str, Any]) -> tuple[list[Wanted], bool]:
    """What is asked for, and whether the reply is a single object."""
    source = body.get("text") if body.get("text") is not None else body.get("input_ids")
    if source is None:
        raise _NativeError("Either text, input_ids or input_embeds should be provided.")
    texts = prompts(source)
    if texts is None:
        raise _NativeError("text and input_ids should be texts and lists of token ids.")
    single = isinstance(source, str) or bool(source and isinstance(source[0], int))
    given = body.get("sampling_params") or {}
    each = given if isinstance(given, list) else [given] * len(texts)
    if len(each) != len(texts):
        raise _NativeError("The specified sampling_params length mismatch with the batch_size.")
    parameters = [native_sampling(one if isinstance(one, dict) else {}) for one in each]
    choices = max((count for _, count in parameters), default=1)
    if choices < 1:
        raise _NativeError(f"n must be at least 1, got {choices}.")
    rids = _rids(service, body.get("rid"), len(texts), choices, single=single)
    wanted = []
    for place, (prompt, (sampling, _)) in enumerate(zip(texts, parameters, strict=True)):
        check_length(service, len(prompt), sampling.max_tokens)
        wanted += [
            Wanted(rids[place * choices + choice], prompt, sampling, choice)
            for choice in range(choices)
        ]
    return wanted, single and choices == 1


def _rids(service: Service, given: Any, count: int, choices: int, *, single: bool) -> list[str]:
    if choices > 1 or given is None:
        return [service.new_rid() for _ in range(count * choices)]
    if isinstance(given, str):
        return [given] if single else [f"{given}_{place}" for place in range(count)]
    rids = [str(rid) for rid in given] if isinstance(given, list) else []
    if len(rids) != count:
        raise _NativeError(
            "The specified rids length mismatch with the batch_size for batch processing."
        )
    twice = sorted({rid for rid in rids if rids.count(rid) > 1})
    if twice:
        raise _NativeError(f"Duplicate request IDs detected within the request: {twice}")
    return rids


def _reply(service: Service, item: Generation, *, first: bool = True) -> dict[str, Any]:
    return {
        "text": item.text,
        "output_ids": item.completion.tokens[: item.count],
        "meta_info": meta_info(service, item, first=first),
    }


async def _stream(
    service: Service, group: Generations, responder: Responder, *, numbered: bool
) -> web.StreamResponse:
    begun: set[int] = set()
    async for item in group.progress():
        event = _reply(service, item, first=item.index not in begun)
        begun.add(item.index)
        if numbered:
            event["index"] = item.index
        await responder.event(event)
    return await responder.done()


def _full(service: Service) -> dict[str, Any]:
    """The event of a request for which the queue has no place: it looks like any other."""
    meta = {
        "id": service.new_rid(),
        "finish_reason": {"type": "abort", "status_code": 503, "message": _FULL},
        "weight_version": "default",
        "e2e_latency": 0.0,
        "weight_versions": [{"version": "default", "start": 0, "end": 0}],
        "completion_tokens": 0,
        "response_sent_to_client_ts": time.time(),
    }
    return {"text": "", "output_ids": [], "meta_info": meta}


async def _event_error(responder: Responder, message: str) -> web.StreamResponse:
    error = {
        "message": message,
        "type": "invalid_request_error",
        "code": 400,
        "retryable": False,
    }
    await responder.event({"error": error})
    return await responder.done()
