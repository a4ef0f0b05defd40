"""Prompts of completions, ``/generate`` and embeddings: texts or tokens, one or several."""

from __future__ import annotations

from typing import Any, Final

from ollad.simulator.tokens import encode

__all__ = ["prompts", "token_list"]

_LARGEST: Final = 1 << 53


def prompts(value: Any) -> list[tuple[int, ...]] | None:
    """The tokens of every prompt; None if ``value`` is neither text nor tokens nor such a list."""
    if isinstance(value, str):
        return [tuple(encode(value))]
    if not isinstance(value, list):
        return None
    if value and all(isinstance(item, str) for item in value):
        return [tuple(encode(item)) for item in value]
    if value and all(isinstance(item, list) for item in value):
        lists = [token_list(item) for item in value]
        return [tokens for tokens in lists if tokens is not None] if None not in lists else None
    if not value:
        return []
    tokens = token_list(value)
    return None if tokens is None else [tokens]


def token_list(value: Any) -> tuple[int, ...] | None:
    """A list of token ids; None if it is none."""
    if isinstance(value, list) and all(
        isinstance(token, int) and not isinstance(token, bool) and 0 <= token < _LARGEST
        for token in value
    ):
        return tuple(value)
    return None
