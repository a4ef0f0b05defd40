"""What an operator may say about routing by prefix."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PrefixSettings"]


@dataclass(frozen=True, slots=True)
class PrefixSettings:
    """Parameters of the ``prefix-cache`` policy.

    Attributes:
        block_bytes: bytes of canonical prompt in its first blocks.
        recompute_price: what a token costs that some backend has cached and this one would have
            to prefill again, in tokens of waiting.
        popular_after: sightings after which a prefix counts as shared by many, so that to prefill
            it on one more backend costs no more than its tokens.
    """

    block_bytes: int = 128
    recompute_price: float = 3.0
    popular_after: int = 4
