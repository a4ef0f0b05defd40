"""What the model says: word salad that depends on prompt, sampling and a seed, on nothing else."""

from __future__ import annotations

import hashlib
import random
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from ollad.simulator.tokens import END, decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Completion", "Sampling", "complete"]

_WORDS: Final = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "and",
    "it",
    "is",
    "for",
    "on",
    "with",
    "as",
    "at",
    "by",
    "from",
    "or",
    "model",
    "token",
    "cache",
    "tree",
    "node",
    "page",
    "batch",
    "queue",
    "route",
    "graph",
    "head",
    "tail",
    "load",
    "share",
    "first",
    "last",
    "next",
    "each",
    "some",
    "many",
    "few",
    "warm",
    "cold",
    "fast",
    "slow",
    "long",
    "short",
    "light",
    "heavy",
    "small",
    "large",
    "early",
    "late",
    "red",
    "green",
    "blue",
    "white",
    "stone",
    "river",
    "cloud",
    "field",
    "house",
    "light",
    "water",
    "world",
    "north",
    "south",
    "east",
    "west",
    "day",
    "night",
    "hour",
    "year",
    "time",
    "place",
    "reads",
    "writes",
    "sends",
    "takes",
    "gives",
    "holds",
    "finds",
    "keeps",
    "moves",
    "turns",
    "opens",
    "shuts",
    "grows",
    "falls",
    "waits",
]
_AFTER_SPACE: Final = tuple(encode(f" {word[:5]}")[0] for word in _WORDS)
_AT_START: Final = tuple(encode(word[:5].capitalize())[0] for word in _WORDS)
_TEXTS: Final = {token: decode((token,)) for token in (*_AFTER_SPACE, *_AT_START, END)}
_SPACES: Final = frozenset(" \n\t")

_SHORTEST: Final = 16
_MEAN_REST: Final = 112.0
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate.

    Attributes:
        max_tokens: at most so many tokens.
        min_tokens: no end before so many.
        temperature: 0 means that every choice of a prompt is the same.
        seed: tells choices apart where the temperature is not 0.
        stop: texts before which the completion ends.
        stop_tokens: tokens after which it ends.
        ignore_end: go on to ``max_tokens`` in any case.
        keep_stop: leave the stop text in the completion.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    ignore_end: bool = False
    keep_stop: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """All that will be generated for a prompt, known beforehand.

    Attributes:
        tokens: ids, with the one that ended it.
        text: what the client sees in the end.
        matched: what ended it, a token or a text; None where ``max_tokens`` did.
    """

    tokens: tuple[int, ...]
    text: str
    matched: int | str | None
    _ends: tuple[int, ...]

    def text_of(self, count: int) -> str:
        """The text of the first ``count`` tokens."""
        if count >= len(self.tokens):
            return self.text
        return self.text[: self._ends[count - 1]] if count > 0 else ""


def complete(
    prompt: Sequence[int], sampling: Sampling, *, seed: int, choice: int = 0
) -> Completion:
    """Generate.

    Args:
        prompt: its tokens.
        sampling: how.
        seed: the model's "weights": another seed, another model.
        choice: which of several completions of the prompt, from 0.
    """
    rng = random.Random(_key(prompt, sampling, seed, choice))  # noqa: S311 - word salad
    natural = max(
        sampling.min_tokens, _SHORTEST + min(_LONGEST, int(rng.expovariate(1 / _MEAN_REST)))
    )
    ends = not sampling.ignore_end and natural < sampling.max_tokens
    length = natural if ends else sampling.max_tokens
    tokens = rng.choices(_AFTER_SPACE, k=length)
    if tokens and prompt and decode(prompt[-1:])[-1:] in _SPACES | {""}:
        tokens[0] = rng.choice(_AT_START)
    if ends:
        tokens.append(END)
    return _cut(tokens, END if ends else None, sampling)


def _key(prompt: Sequence[int], sampling: Sampling, seed: int, choice: int) -> int:
    digest = hashlib.blake2b(array("Q", prompt).tobytes(), digest_size=8)
    digest.update(array("q", (seed,)).tobytes())
    if sampling.temperature > 0:
        digest.update(f"{choice} {sampling.seed}".encode())
    return int.from_bytes(digest.digest(), "big")


def _cut(tokens: list[int], matched: int | str | None, sampling: Sampling) -> Completion:
    """End the tokens at what was asked to stop them."""
    for position, token in enumerate(tokens if sampling.stop_tokens else ()):
        if token in sampling.stop_tokens and position >= sampling.min_tokens:
            tokens, matched = tokens[: position + 1], token
            break
    pieces = [_TEXTS[token] for token in tokens]
    if matched in sampling.stop_tokens and not sampling.keep_stop:
        pieces[-1] = ""
    ends = tuple(accumulate(map(len, pieces)))
    text = "".join(pieces)
    found = min(
        ((text.find(stop), stop) for stop in sampling.stop if stop and stop in text), default=None
    )
    if found is not None:
        start, matched = found
        count = bisect_left(ends, start + len(matched)) + 1
        text = text[: start + len(matched)] if sampling.keep_stop else text[:start]
        tokens, ends = tokens[:count], ends[:count]
    return Completion(tuple(tokens), text, matched, ends)
