"""The one interface of all policies: what they choose from, what they promise, what they are told.

A policy is synchronous: it has no clock and no dice of its own, both are handed in. It reads
snapshots and counters of backends and writes nothing but its own books.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ollad.backends.snapshot import Snapshot
    from ollad.routing.demand import Demand

__all__ = ["Candidate", "Policy", "Standing", "Ticket"]


class Candidate(Protocol):
    """A backend as a policy sees it; ``ollad.backends.backend.Backend`` is one."""

    @property
    def name(self) -> str:
        """The configured name, which no other backend has."""

    @property
    def in_flight(self) -> int:
        """Requests sent there whose reply has not ended."""

    @property
    def snapshot(self) -> Snapshot:
        """What the health task last saw of it."""

    def weight(self, now: float) -> float:
        """Its weight, 0..1, at monotonic time ``now``."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a policy keeps of one backend.

    Attributes:
        index_blocks: prompt blocks believed to be in its radix cache.
        index_bytes: what they occupy in this process, estimated.
        pending_tokens: tokens it was sent and is believed to have to prefill yet.
        confidence: how far the index is believed, 0..1, by what the backend reported as cached.
    """

    index_blocks: int = 0
    index_bytes: int = 0
    pending_tokens: float = 0.0
    confidence: float = 1.0


class Ticket(Protocol):
    """What a policy keeps of one request under way, from its dispatch to its end."""

    def first_byte(self, now: float) -> None:
        """The reply's first byte came at monotonic ``now``: the prompt's prefill is over."""

    def end(
        self,
        now: float,
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        answer: tuple[int, ...] = (),
    ) -> None:
        """The exchange is over, well or not; whatever is said after the first time is not heard.

        Args:
            now: monotonic seconds.
            prompt_tokens: tokens of the prompt by the backend's count; None if it did not say, as
                when it failed.
            cached_tokens: how many of these it had cached; None if it did not say.
            answer: hashes of the blocks of prompt and answer beyond the prompt's own.
        """


class Policy(Protocol):
    """A way to choose."""

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        """Choose one of the candidates, of which there is at least one, at monotonic ``now``."""

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:
        """Take note that a request is sent to ``backend``; to be called for every attempt."""

    def forget(self, name: str) -> None:
        """Drop what is kept of a backend that left the configuration."""

    def standings(self) -> Mapping[str, Standing]:
        """What is kept of each backend, by name, for operators."""
