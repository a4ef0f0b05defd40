"""``POST /v1/embeddings``: never held back, since vectors are long and carry no cache figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.generation import relay
from ollad.replies import Reading
from ollad.serving import Relaying

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["EMBEDDINGS", "embeddings"]

EMBEDDINGS: Final = Relaying("/v1/embeddings", Reading("openai", None))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Relay a request for embeddings."""
    return await relay(request, EMBEDDINGS)
