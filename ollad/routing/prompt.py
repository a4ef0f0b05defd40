"""From a request to the hashes of its prompt's blocks.

Hashes are Python's own of bytes and tuples: SipHash under a key that each process draws at its
start (PEP 456). They mean nothing to another process, and nobody outside can bring two prompts to
collide; if they did, a request would be routed less well, no more.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct, iter_unpack
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.routing.canonical import (
    answer_text,
    chat_text,
    messages_text,
    plain_prompt,
    responses_text,
    stand_in,
)
from ollad.routing.demand import Demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Prompt", "PromptReader"]

_BYTES_PER_TOKEN: Final = 4.0
"""Of text in English; in other languages and in code a token has fewer. It need not be exact, as
costs are compared with each other."""
_DOUBLING: Final = 32
"""Blocks after which they double in length: a match is known to about 3 % of its length."""
_LONGEST: Final = 1024 * 1024
"""Bytes of a prompt that are hashed at most, a quarter of a million tokens: prompts that are alike
for so long belong to the same backend, whatever follows."""

_CHATS: Final[Mapping[str, Callable[[Mapping[str, Any]], list[str]]]] = {
    "/v1/chat/completions": chat_text,
    "/v1/messages": messages_text,
    "/v1/responses": responses_text,
}
_EMBEDDINGS: Final = frozenset(
    {"/v1/embeddings", "/v1/score", "/v1/rerank", "/v1/classify", "/classify", "/encode"}
)
"""Routes that prefill, on servers that cache no prefixes."""
_MEDIA_FIELDS: Final = ("image_data", "video_data", "audio_data")


class Prompt:
    """A prompt that was read: what it demands, and how an answer would continue it.

    Attributes:
        demand: what the policy asks for.
    """

    __slots__ = ("_block_bytes", "_last", "_tail", "demand")

    def __init__(self, demand: Demand, last: int, tail: bytes, block_bytes: int) -> None:
        self.demand = demand
        self._last = last
        self._tail = tail
        self._block_bytes = block_bytes

    def answer(self, message: Mapping[str, Any] | str) -> tuple[int, ...]:
        """Hash the blocks that an answer adds to those of the prompt.

        Args:
            message: the message of a chat, as its next request will repeat it; or the text that
                was generated after a plain prompt.

        Returns:
            None of them if the prompt was of a route whose prompts are not read, or was too long.
        """
        if self._block_bytes == 0:
            return ()
        data = self._tail + answer_text(message).encode("utf-8", "surrogatepass")
        first = len(self.demand.chain)
        return _hash(self._last, data, self._block_bytes, first)[0]


class PromptReader:
    """Reads prompts.

    Args:
        block_bytes: length of the first blocks.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes

    def read(
        self,
        target: str,
        document: Mapping[str, Any],
        model: str | None,
        size: int,
        omitted: int = 0,
    ) -> Prompt:
        """Read the prompt of a request.

        Args:
            target: the path on the backend, without query.
            document: the body.
            model: the model's id, which is part of the chain: each has a cache of its own.
            size: bytes of the body, for an estimate where the prompt is not read.
            omitted: bytes of the prompt that the document is without, beyond those that are hashed.
        """
        silent = not document.get("stream")
        chat = _CHATS.get(target)
        if chat is not None:
            kind = "chat"
            data, length = _octets(chat(document))
            length += omitted
            tokens = length / _BYTES_PER_TOKEN
        elif target in ("/generate", "/v1/completions"):
            kind, data, length, tokens = _plain(document, omitted)
        else:
            worth = size / _BYTES_PER_TOKEN if target in _EMBEDDINGS else 0.0
            return Prompt(Demand((), worth, 1.0, silent=silent), 0, b"", 0)
        get = document.get
        adapter, salt, key = get("lora_path"), get("cache_salt"), get("extra_key")
        if adapter is None and salt is None and key is None:
            seed = hash((kind, model, None, None, None))
        else:
            seed = hash((kind, model, _text(adapter), _text(salt), _text(key)))
        block_bytes = self._block_bytes
        chain, used = _hash(seed, data, block_bytes, 0)
        block_tokens = tokens * block_bytes / length if length else 1.0
        demand = Demand(chain, tokens, block_tokens, _DOUBLING, silent)
        if omitted or len(data) >= _LONGEST:
            # it is not known to its end, so neither is what follows
            return Prompt(demand, 0, b"", 0)
        return Prompt(demand, chain[-1] if chain else seed, data[used:], block_bytes)


def _octets(pieces: list[str]) -> tuple[bytes, float]:
    """What may be hashed of a text, and the length of all of it in bytes, estimated if long."""
    length = sum(map(len, pieces))
    if length > _LONGEST:
        pieces = list(_first(pieces, _LONGEST))
    known = "".join(pieces)
    data = known.encode("utf-8", "surrogatepass")
    return data, len(data) * length / len(known) if known else 0.0


def _first(pieces: list[str], length: int) -> Iterator[str]:
    """The first characters of a text, ``length`` of them."""
    for piece in pieces:
        yield piece[:length]
        length -= len(piece)
        if length <= 0:
            return


def _plain(document: Mapping[str, Any], omitted: int) -> tuple[str, bytes, float, float]:
    """A prompt that is no conversation: its kind, canonical bytes, their length and its tokens."""
    given = document.get("prompt") or document.get("text") or document.get("input_ids")
    prompt, several = plain_prompt(given)
    media = "".join([stand_in(document[field]) for field in _MEDIA_FIELDS if document.get(field)])
    if isinstance(prompt, str):
        data, length = _octets([media, prompt])
        length += omitted
        return "text", data, length, several * length / _BYTES_PER_TOKEN
    ids = orjson.dumps(prompt)[:-1] + b","
    tokens = len(prompt) + len(media) / _BYTES_PER_TOKEN
    data = media.encode() + ids
    return "ids", data, len(data), several * tokens


def _text(value: object) -> str | None:
    """A name, or None for whatever is none: most values that JSON has cannot be hashed."""
    return value if isinstance(value, str) else None


def _hash(last: int, data: bytes, block_bytes: int, first: int) -> tuple[tuple[int, ...], int]:
    """Hash the whole blocks of ``data``, the first of which is block number ``first``.

    Args:
        last: the hash of the block before.
        data: canonical bytes, from the beginning of a block on.
        block_bytes: length of the first blocks of the prompt.
        first: how many blocks of the prompt are before.

    Returns:
        The hashes, and how many bytes they cover.
    """
    hashes: list[int] = []
    blocks = len(data) // block_bytes
    if first + blocks < 2 * _DOUBLING:
        for block in _blocks(block_bytes, blocks).unpack_from(data):
            last = hash((last, block))
            hashes.append(last)
        return tuple(hashes), blocks * block_bytes
    view = memoryview(data)[:_LONGEST]
    octave = max(0, first - _DOUBLING) // _DOUBLING
    start = 0
    while True:
        size = block_bytes << octave
        room = (octave + 2) * _DOUBLING - first - len(hashes)
        blocks = min(room, (len(view) - start) // size)
        stop = start + blocks * size
        for (block,) in iter_unpack(f"{size}s", view[start:stop]):
            last = hash((last, block))
            hashes.append(last)
        start = stop
        if blocks < room:
            return tuple(hashes), start
        octave += 1


@lru_cache(maxsize=2 * _DOUBLING)
def _blocks(size: int, count: int) -> Struct:
    """Cuts bytes into ``count`` blocks of ``size`` bytes."""
    return Struct(f"{size}s" * count)
