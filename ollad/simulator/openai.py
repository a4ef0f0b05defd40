"""What the OpenAI generation routes have in common: how they are run, and how they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ollad.simulator.engine import QueueFullError
from ollad.simulator.generations import (
    DuplicateRidError,
    Generations,
    TooLongError,
    Wanted,
    check_length,
)
from ollad.simulator.refusals import flat, openai_error
from ollad.simulator.sampling import SamplingError, openai_sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiohttp import web

    from ollad.simulator.refusals import Refusal
    from ollad.simulator.replies import Responder
    from ollad.simulator.service import Service

__all__ = ["queue_full", "respond", "wanted"]


def queue_full() -> Refusal:
    """What a request gets that is not a stream when the queue has no place."""
    return openai_error("The request queue is full.", kind="503", status=503)


def wanted(
    service: Service,
    body: Mapping[str, Any],
    prompts: Sequence[Sequence[int]],
    default_max: int,
    images: int = 0,
) -> tuple[list[Wanted], int]:
    """What a request asks for.

    Args:
        service: which is to generate.
        body: the request.
        prompts: the tokens of its prompts.
        default_max: tokens to generate where it does not tell.
        images: tokens of a prompt that stand for images.

    Returns:
        The generations, the choices of a prompt side by side, and how many of them it has.

    Raises:
        Refusal: parameters are wrong, or it is too long, or no model for it.
    """
    if service.options.embedding:
        raise openai_error("This model is an embedding model and does not generate.")
    try:
        sampling, choices = openai_sampling(body, default_max)
        for prompt in prompts:
            check_length(service, len(prompt), sampling.max_tokens)
    except (SamplingError, TooLongError) as error:
        raise openai_error(str(error)) from None
    given = body.get("rid")
    own = isinstance(given, str) and len(prompts) == choices == 1
    generations = [
        Wanted(str(given) if own else service.new_rid(), prompt, sampling, choice, images)
        for prompt in prompts
        for choice in range(choices)
    ]
    return generations, choices


async def respond(
    service: Service,
    generations: Sequence[Wanted],
    responder: Responder,
    *,
    document: Callable[[Generations], dict[str, Any]],
    stream: Callable[[Generations], Awaitable[web.StreamResponse]] | None,
) -> web.StreamResponse:
    """Generate and answer.

    Args:
        service: which generates.
        generations: what.
        responder: what to answer with.
        document: makes the reply when all has ended.
        stream: sends it as it comes; None where no stream is asked for.

    Raises:
        Refusal: the queue is full, or the rid is one under way.
    """
    try:
        responder.check_queue()
        with Generations(service, generations, stream=stream is not None) as group:
            if stream is not None:
                return await stream(group)
            await group.ended()
            return await responder.document(document(group))
    except DuplicateRidError as error:
        raise openai_error(str(error)) from None
    except QueueFullError:
        if stream is None:
            raise queue_full() from None
    return await _full_stream(responder)


async def _full_stream(responder: Responder) -> web.StreamResponse:
    """Refuse a stream for which the queue has no place: status 200, and the error as an event."""
    error = flat("The request queue is full.", kind="SERVICE_UNAVAILABLE", code=503)
    # This event alone is written by json.dumps there: with a blank after colons and commas.
    text = ", ".join(f'"{key}": {orjson.dumps(value).decode()}' for key, value in error.items())
    await responder.raw(f'data: {{"error": {{{text}}}}}\n\n'.encode())
    return await responder.done()
