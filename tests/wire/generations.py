"""Replies of ``/generate`` as SGLang 0.5.23 makes them, and scripts that give them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.wire.fake_sglang import reply

if TYPE_CHECKING:
    from tests.wire.fake_sglang import Exchange, Script

__all__ = ["Gate", "cumulative", "echo", "generation"]


def generation(text: str, *, reason: str | None = "stop", **info: Any) -> dict[str, Any]:
    """A reply, or an event of a stream, with 10 prompt tokens and one token for each word."""
    ids = list(range(len(text.split())))
    return {
        "text": text,
        "output_ids": ids,
        "meta_info": {
            "id": "0123456789abcdef0123456789abcdef",
            "finish_reason": None if reason is None else {"type": reason},
            "prompt_tokens": 10,
            "completion_tokens": len(ids),
            "cached_tokens": 0,
            "e2e_latency": 0.25,
            **info,
        },
    }


def cumulative(text: str, **info: Any) -> list[dict[str, Any]]:
    """The events of a stream that ends with ``text``."""
    words = text.split(" ")
    starts = [" ".join(words[:end]) for end in range(1, len(words) + 1)]
    last = len(starts) - 1
    return [
        generation(start, reason="stop" if at == last else None, **info)
        for at, start in enumerate(starts)
    ]


async def echo(exchange: Exchange) -> None:
    """Complete any prompt with its own last word in brackets."""
    words = str(exchange.json.get("text", "")).split()
    await reply(generation(f" [{words[-1]}]", prompt_tokens=len(words)))(exchange)


class Gate:
    """A script that holds requests back.

    Attributes:
        waiting: how many are held now.
        most: the most that were held at once.
        prompts: of all that came, in order.
        gone: how many went away while they were held.
    """

    def __init__(self, then: Script = echo) -> None:
        self._open = asyncio.Event()
        self._then = then
        self.waiting = 0
        self.most = 0
        self.prompts: list[str] = []
        self.gone = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.prompts.append(exchange.json.get("text"))
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        gone = asyncio.create_task(exchange.client_gone.wait())
        opened = asyncio.create_task(self._open.wait())
        try:
            await asyncio.wait((gone, opened), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.waiting -= 1
            self.gone += exchange.client_gone.is_set()
            for task in (gone, opened):
                task.cancel()
            await asyncio.gather(gone, opened, return_exceptions=True)
        if not exchange.client_gone.is_set():
            await self._then(exchange)

    def open(self) -> None:
        """Let those held, and all that follow, go on."""
        self._open.set()
