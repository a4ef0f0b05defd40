"""``POST /v1/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.generation import OPENAI, relay, usual_metrics
from ollad.serving import Relaying

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["COMPLETIONS", "completions"]

COMPLETIONS: Final = Relaying("/v1/completions", OPENAI, identity=True, members=usual_metrics)


async def completions(request: web.Request) -> web.StreamResponse:
    """Relay a text completion, streamed or whole; as a chat, with ``metrics``."""
    return await relay(request, COMPLETIONS)
