"""``POST /v1/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.gateway import GATEWAY
from ollad.generation import relay_generation
from ollad.intake import read_call

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["completions"]


async def completions(request: web.Request) -> web.StreamResponse:
    """Relay a text completion, streamed or whole."""
    runtime = request.app[GATEWAY].runtime
    call = await read_call(request, runtime, "/v1/completions", identity=True)
    return await relay_generation(request, runtime, call)
