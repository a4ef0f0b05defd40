"""``POST /v1/embeddings``: never held back, since vectors are long and carry no cache figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.gateway import GATEWAY
from ollad.intake import read_call
from ollad.replies import Reading
from ollad.serving import relay_call

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["embeddings"]

_EMBEDDINGS: Final = Reading("openai", None)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Relay a request for embeddings."""
    runtime = request.app[GATEWAY].runtime
    call = await read_call(request, runtime, "/v1/embeddings")
    relayed = await relay_call(request, runtime, call, _EMBEDDINGS)
    return relayed.response
