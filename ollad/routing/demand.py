"""What a request asks of the backend that takes it, as one frozen value."""

from __future__ import annotations

from typing import Final

__all__ = ["UNKNOWN", "Demand", "span"]


class Demand:
    """The prompt of a request, as far as routing cares.

    Attributes:
        chain: 64-bit hashes of the prompt's blocks, first to last, each covering all that stands
            before it (model, adapter and cache salt included); empty if the prompt is unknown or
            shorter than a block.
        tokens: estimated tokens of the whole prompt.
        block_tokens: estimated tokens of the first block.
        doubling: number of blocks after which blocks grow twice as long, so that a long prompt
            has few of them; 0 if all are of one length.
        silent: whether no byte of the reply comes before the whole of it, as when it is not
            streamed: then nothing but an estimate says when its prefill is over.
    """

    __slots__ = ("block_tokens", "chain", "doubling", "silent", "tokens")

    def __init__(
        self,
        chain: tuple[int, ...],
        tokens: float,
        block_tokens: float,
        doubling: int = 0,
        silent: bool = False,
    ) -> None:
        self.chain = chain
        self.tokens = tokens
        self.block_tokens = block_tokens
        self.doubling = doubling
        self.silent = silent

    def prefix_tokens(self, blocks: int) -> float:
        """Estimated tokens of the first ``blocks`` blocks, at most those of the prompt."""
        doubling = self.doubling
        length = blocks if blocks <= 2 * doubling else span(blocks, doubling)
        covered = length * self.block_tokens
        if covered > self.tokens:
            return self.tokens
        return covered


def span(blocks: int, doubling: int) -> int:
    """How many first blocks are as long as the first ``blocks`` blocks together.

    The first ``2 * doubling`` blocks are of one length, the next ``doubling`` twice as long, the
    next ``doubling`` four times, and so on.
    """
    beyond = blocks - 2 * doubling
    if beyond <= 0 or doubling == 0:
        return blocks
    octave, rest = divmod(beyond, doubling)
    return (2 * doubling + 2 * rest) << octave


UNKNOWN: Final = Demand(chain=(), tokens=0.0, block_tokens=1.0)
"""The demand of a request whose prompt nobody looked at."""
