"""``POST /v1/embeddings`` of a server started with ``--is-embedding``."""

from __future__ import annotations

import base64
import hashlib
import math
import random
from array import array
from typing import TYPE_CHECKING, Any, Final

from ollad.simulator.completion import Sampling
from ollad.simulator.engine import QueueFullError
from ollad.simulator.generations import Generations, TooLongError, Wanted, check_length, usage
from ollad.simulator.openai import queue_full
from ollad.simulator.prompts import prompts
from ollad.simulator.refusals import invalid, openai_error, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from ollad.simulator.replies import Responder
    from ollad.simulator.service import Service

__all__ = ["NOT_EMBEDDING", "answer"]

NOT_EMBEDDING: Final = (
    "This model does not appear to be an embedding model by default. Please add `--is-embedding` "
    "when launching the server or try another model."
)
_DIMENSIONS: Final = 64
_NOTHING: Final = Sampling(max_tokens=0)


async def answer(
    service: Service, body: dict[str, Any], responder: Responder
) -> web.StreamResponse:
    """Embed one input or several: equal inputs alike, others anyhow."""
    if not service.options.embedding:
        raise openai_error(NOT_EMBEDDING)
    texts = prompts(body.get("input"))
    if texts is None:
        message = "Input should be a valid string"
        wrong = problem("string_type", ("body", "input", "str"), message, body.get("input"))
        raise invalid("/v1/embeddings", "POST", [wrong])
    if not texts or not all(texts):
        raise openai_error("Input cannot be empty")
    try:
        for prompt in texts:
            check_length(service, len(prompt), 0)
    except TooLongError as error:
        raise openai_error(str(error)) from None
    dimensions = body.get("dimensions") or _DIMENSIONS
    wanted = [Wanted(service.new_rid(), prompt, _NOTHING) for prompt in texts]
    try:
        with Generations(service, wanted, stream=False) as group:
            await group.ended()
            data = [
                {
                    "embedding": _encoded(
                        embed(item.task.prompt, dimensions, service.options.seed),
                        body.get("encoding_format"),
                    ),
                    "index": item.index,
                    "object": "embedding",
                }
                for item in group.items
            ]
            figures = usage(group.items, 1, report=False)
    except QueueFullError:
        raise queue_full() from None
    return await responder.document(
        {"data": data, "model": service.options.model, "object": "list", "usage": figures}
    )


def embed(tokens: Sequence[int], dimensions: int, seed: int) -> list[float]:
    """A vector of length 1 that depends on nothing but tokens and seed."""
    digest = hashlib.blake2b(array("Q", tokens).tobytes(), digest_size=8).digest()
    rng = random.Random(int.from_bytes(digest, "big") ^ seed)  # noqa: S311 - a made-up vector
    vector = [rng.gauss(0, 1) for _ in range(dimensions)]
    norm = math.hypot(*vector) or 1.0
    return [value / norm for value in vector]


def _encoded(vector: list[float], encoding: Any) -> list[float] | str:
    return base64.b64encode(array("f", vector)).decode() if encoding == "base64" else vector
