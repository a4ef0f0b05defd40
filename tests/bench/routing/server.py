"""A model of one inference server: a queue, chunked prefill, decode, and a radix cache.

Requests are served first come, first served. Prefill goes in steps of at most ``chunk_tokens``
uncached tokens, over as many waiting requests as fit in; a request whose last prompt token is in a
step has its first token when the step ends. Then it decodes at ``decode_rate``, untouched by
others. A request is admitted to prefill when it has one of ``max_running`` places and KV memory
for its whole prompt and answer; what it then finds in the cache it need not compute.

There is no clock here: time is handed in, and whoever drives the server calls ``step_ended`` and
``finished`` at the moments that were returned.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.routing.cache import BlockCache

if TYPE_CHECKING:
    from tests.bench.routing.load import Request

__all__ = ["Job", "Server", "ServerConfig"]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server can do.

    Attributes:
        prefill_rate: uncached prompt tokens a second.
        chunk_tokens: most of them in one step.
        step_seconds: what a step takes beside.
        decode_rate: tokens a second that each running request gets.
        max_running: requests in prefill and decode together.
        cache_tokens: KV memory.
        priority: what its operator configured.
    """

    prefill_rate: float = 8000.0
    chunk_tokens: int = 2048
    step_seconds: float = 0.0
    decode_rate: float = 50.0
    max_running: int = 256
    cache_tokens: int = 2_000_000
    priority: int = 100


class Job:
    """A request on a server.

    Attributes:
        request: what is to be done.
        cached: prompt tokens found in the cache when it was admitted; None before.
        missing: prompt tokens that are not computed yet, once it is admitted.
        reserved: KV memory that it keeps beside cached blocks, tokens.
        uncached: prompt tokens that were not cached when it came.
    """

    __slots__ = ("cached", "missing", "request", "reserved", "uncached")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.cached: int | None = None
        self.missing = 0
        self.reserved = 0
        self.uncached = 0


class Server:
    """The model; ``block_tokens`` is how long the blocks of all requests are."""

    def __init__(self, config: ServerConfig, block_tokens: int) -> None:
        self.config = config
        self.cache = BlockCache(config.cache_tokens, block_tokens)
        self.waiting: deque[Job] = deque()
        self.decoding = 0
        self.busy_seconds = 0.0
        self._block_tokens = block_tokens
        self._stepping: list[Job] = []
        self._in_step = False
        self._uncached = 0

    @property
    def running(self) -> int:
        """Requests that were admitted."""
        begun = bool(self.waiting) and self.waiting[0].cached is not None
        return self.decoding + len(self._stepping) + begun

    @property
    def waiting_uncached(self) -> int:
        """Prompt tokens that the queue has to compute, as things were when each request came."""
        begun = self.waiting[0] if self.waiting else None
        return self._uncached + (begun.missing if begun and begun.cached is not None else 0)

    def submit(self, job: Job) -> float | None:
        """Take a request; returns the seconds that the step takes which begins now, if one does."""
        matched = self.cache.match(job.request.chain) * self._block_tokens
        job.uncached = max(0, job.request.tokens - matched)
        self._uncached += job.uncached
        self.waiting.append(job)
        return None if self._in_step else self._next_step()

    def step_ended(self) -> tuple[list[Job], float | None]:
        """The step is over.

        Returns:
            The requests that have their first token now, and the seconds of the next step.
        """
        done, self._stepping, self._in_step = self._stepping, [], False
        for job in done:
            self._cache_prompt(job)
            self.decoding += 1
        return done, self._next_step()

    def decode_seconds(self, job: Job) -> float:
        """From its first token to its last."""
        return max(0, job.request.output - 1) / self.config.decode_rate

    def finished(self, job: Job) -> float | None:
        """A request has its last token; returns the seconds of the step that begins now."""
        request, cache = job.request, self.cache
        cache.unreserve(job.reserved)
        self.decoding -= 1
        chain = request.chain
        if request.answer:
            cache.hold(request.answer, self._block_tokens * len(request.answer))
            chain += request.answer
        cache.release(reversed(chain))
        return None if self._in_step else self._next_step()

    def _next_step(self) -> float | None:
        budget = self.config.chunk_tokens
        while self.waiting and budget > 0:
            job = self.waiting[0]
            if job.cached is None and not self._admit(job):
                break
            taken = min(budget, job.missing)
            budget -= taken
            job.missing -= taken
            if job.missing:
                break
            self._stepping.append(self.waiting.popleft())
        computed = self.config.chunk_tokens - budget
        if computed == 0:
            return None
        self._in_step = True
        seconds = self.config.step_seconds + computed / self.config.prefill_rate
        self.busy_seconds += seconds
        return seconds

    def _admit(self, job: Job) -> bool:
        if self.decoding + len(self._stepping) >= self.config.max_running:
            return False
        request, cache = job.request, self.cache
        matched = cache.match(request.chain)
        known = min(matched * self._block_tokens, request.tokens)
        cache.hold(request.chain[:matched], known)
        room = request.tokens - known + request.output
        if not cache.reserve(room):
            cache.release(reversed(request.chain[:matched]))
            if self.decoding == 0 and not self._stepping:
                raise ValueError(f"{request.tokens} + {request.output} tokens never fit in memory")
            return False
        # one token is always computed: there is no other way to the logits of the next
        job.cached = min(known, request.tokens - 1)
        job.missing = request.tokens - job.cached
        job.reserved = room
        self._uncached -= job.uncached
        return True

    def _cache_prompt(self, job: Job) -> None:
        """Move the prompt from the room of the request into the cache."""
        request, cache = job.request, self.cache
        computed = job.reserved - request.output
        cache.unreserve(computed)
        job.reserved -= computed
        if computed:
            matched = (request.tokens - computed) // self._block_tokens
            cache.hold(request.chain[matched:], computed)
