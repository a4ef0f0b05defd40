"""What clients ask for: requests, when they come, and which blocks their prompts have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Followup", "Load", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        chain: one number per block of the prompt, first to last, each standing for the block and
            all before it; the last block may be shorter than the others.
        tokens: length of the prompt.
        output: tokens that are generated.
        answer: numbers of the whole blocks that the generated tokens add to the chain.
        followup: what the same client asks next.
    """

    chain: tuple[int, ...]
    tokens: int
    output: int
    answer: tuple[int, ...] = ()
    followup: Followup | None = None


@dataclass(frozen=True, slots=True)
class Followup:
    """A request that comes some seconds after the reply before it has ended."""

    pause: float
    request: Request


@dataclass(frozen=True, slots=True)
class Load:
    """A workload.

    Attributes:
        name: what the tables call it.
        arrivals: seconds and the request that comes then, in order of time.
        block_tokens: tokens of a block.
        unary: share of requests that are not streamed, 0..1: of those a proxy learns nothing before
            the whole reply is there. Their first token is looked at all the same.
    """

    name: str
    arrivals: Sequence[tuple[float, Request]]
    block_tokens: int
    unary: float = 0.0

    @property
    def requests(self) -> int:
        """How many there are, follow-ups included."""
        count = 0
        for _, request in self.arrivals:
            following: Request | None = request
            while following is not None:
                count += 1
                following = following.followup.request if following.followup else None
        return count
