"""Sends a workload over HTTP, at its own times whatever becomes of it, and looks at the clock.

Blocks become text: equal blocks equal text, so that equal beginnings of chains are equal
beginnings of prompts. A word of the text is one token of the simulated servers.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.routing.load import Load, Request

__all__ = ["Replayed", "prompt", "replay", "usage_of"]

_WORD: Final = 5
"""Letters of a word; with the space before it that is one token of ``ollad simulate``."""
_SECONDS: Final = 600.0
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a workload.

    Attributes:
        ttft: seconds to the first event, of the clock of the simulated servers; of every request
            that had a complete reply.
        prompt_tokens: by the servers' count.
        cached_tokens: those of them that the servers said were cached.
        failures: what went wrong, one entry for each request that had no complete reply.
        late: seconds by which the sender was behind its times, at most, of the same clock.
    """

    ttft: Sequence[float]
    prompt_tokens: int
    cached_tokens: int
    failures: Sequence[str]
    late: float


def prompt(request: Request, block_tokens: int, smaller: int) -> str:
    """The text of a prompt.

    Args:
        request: what is asked.
        block_tokens: tokens of its blocks.
        smaller: it gets this many times fewer tokens than the request says.
    """
    pieces = []
    left = request.tokens
    for block in request.chain:
        words = max(1, min(block_tokens, left) // smaller)
        left -= block_tokens
        letters = hashlib.shake_128(block.to_bytes(8, "big")).hexdigest(words * _WORD)
        pieces += [letters[_WORD * word : _WORD * (word + 1)] for word in range(words)]
    return " ".join(pieces)


async def replay(load: Load, url: str, model: str, *, faster: float, smaller: int) -> Replayed:
    """Send a workload.

    Args:
        load: requests without follow-ups.
        url: where chat completions are taken.
        model: which to ask for.
        faster: how many times faster than real the servers' clocks go.
        smaller: by what prompts, and replies, are divided.
    """
    player = _Player(load, url, model, faster, smaller)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await player.play(session)
    return Replayed(
        player.ttft,
        player.prompt_tokens,
        player.cached_tokens,
        player.failures,
        player.late,
    )


class _Player:
    def __init__(self, load: Load, url: str, model: str, faster: float, smaller: int) -> None:
        self._load = load
        self._url = url
        self._model = model
        self._faster = faster
        self._smaller = smaller
        self.ttft: list[float] = []
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.failures: list[str] = []
        self.late = 0.0

    async def play(self, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as group:
            for at, request in self._load.arrivals:
                body = self._body(request)
                due = begin + at / self._faster
                await asyncio.sleep(max(0.0, due - loop.time()))
                self.late = max(self.late, (loop.time() - due) * self._faster)
                group.create_task(self._ask(session, body))

    def _body(self, request: Request) -> bytes:
        text = prompt(request, self._load.block_tokens, self._smaller)
        return json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": max(1, request.output // self._smaller),
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()

    async def _ask(self, session: aiohttp.ClientSession, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        first: float | None = None
        tail = b""
        try:
            headers = {"Content-Type": "application/json"}
            async with session.post(self._url, data=body, headers=headers) as reply:
                _acknowledge(reply)
                reply.raise_for_status()
                async for data in reply.content.iter_any():
                    if first is None:
                        first = loop.time()
                    tail = (tail + data)[-4096:]
            usage = usage_of(tail)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self.failures.append(f"{type(error).__name__}: {error}"[:200])
            return
        assert first is not None
        self.ttft.append((first - begun) * self._faster)
        self.prompt_tokens += usage["prompt_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        self.cached_tokens += details.get("cached_tokens") or 0


def _acknowledge(reply: aiohttp.ClientResponse) -> None:
    """Acknowledge the head of the reply at once.

    SGLang's router leaves Nagle's algorithm on, so that its first event waits for that, up to
    40 ms. With clocks that go faster, that would count many times over; it says nothing about
    where requests are sent.
    """
    transport = reply.connection.transport if reply.connection else None
    found = transport.get_extra_info("socket") if transport else None
    if found is not None and _QUICKACK is not None:
        found.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def usage_of(tail: bytes) -> dict[str, Any]:
    """What the last event but ``[DONE]`` of a complete stream says of usage.

    Raises:
        ValueError: the stream did not end so.
        KeyError: the event says nothing of it.
    """
    events = [part for part in tail.split(b"\n\n") if part]
    if len(events) < 2 or events[-1] != b"data: [DONE]":
        raise ValueError(f"the stream ends with {tail[-100:]!r}")
    usage: dict[str, Any] = json.loads(events[-2].removeprefix(b"data: "))["usage"]
    return usage
