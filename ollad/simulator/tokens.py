"""A tokenizer without a model: about four characters a token, the same on every machine.

A token's id *is* its text (UTF-8 as a big-endian number), so that no vocabulary has to be kept
and ids can be turned back into text. Ids stay below 2**53, what every JSON reader can hold.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["END", "START", "decode", "encode", "image_tokens"]

START: Final = 3
END: Final = 4
"""Marks the end of a message; a model that has said what it had to say generates it."""

_FIRST_TEXT: Final = 16
"""Ids below stand for no text."""
_IMAGE: Final = 1 << 49
"""Ids from here stand for a patch of an image and have no text either."""

_PIECE: Final = re.compile(
    r" ?[A-Za-z0-9]{1,5}| {1,6}|\n{1,6}|[!-/:-@\[-`{-~]{1,3}|.", re.DOTALL | re.ASCII
)


def encode(text: str) -> list[int]:
    """The tokens of a text. Texts that begin alike have tokens that begin alike."""
    return [int.from_bytes(piece.encode(), "big") + _FIRST_TEXT for piece in _PIECE.findall(text)]


def decode(tokens: Iterable[int]) -> str:
    """The text of tokens; ids that stand for no text are passed over."""
    return b"".join(map(_bytes, tokens)).decode(errors="replace")


def image_tokens(source: str, count: int) -> Sequence[int]:
    """What an image becomes: ``count`` tokens, equal where the sources are."""
    digest = hashlib.blake2b(source.encode(errors="replace"), digest_size=6).digest()
    return (_IMAGE + int.from_bytes(digest, "big"),) * count


def _bytes(token: int) -> bytes:
    if not _FIRST_TEXT <= token < _IMAGE:
        return b""
    number = token - _FIRST_TEXT
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
