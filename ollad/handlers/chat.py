"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.generation import OPENAI, relay, usual_metrics
from ollad.serving import Relaying

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["CHAT", "chat_completions"]

CHAT: Final = Relaying("/v1/chat/completions", OPENAI, identity=True, members=usual_metrics)


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Relay a chat, streamed or whole; a whole reply gets the page's ``metrics`` member."""
    return await relay(request, CHAT)
