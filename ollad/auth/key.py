"""A client's key as requests meet it: a name, and what it may do."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ollad.errors import BadRequestError, ForbiddenError

if TYPE_CHECKING:
    from ollad.auth.meter import Meter
    from ollad.config.schema import ApiKey

__all__ = ["Key", "make_key"]

_SALT_DIGITS: Final = 32
_SHOWN: Final = 200  # characters of a client's text in a message


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One client.

    Attributes:
        name: what it is called in logs and metrics; also whom conversations belong to.
        models: patterns of what it may use, each cut at its stars; none: everything.
        salted: whether its prompts are kept apart in the backends' caches.
        meter: its limits.
        secret: SHA-256 of the key.
    """

    name: str
    models: tuple[tuple[str, ...], ...]
    salted: bool
    meter: Meter
    secret: bytes = field(repr=False)

    def permits(self, model: str) -> bool:
        """Whether it may use ``model``, an id or an alias."""
        return not self.models or any(_fits(pattern, model) for pattern in self.models)

    def require(self, model: str, *other_names: str) -> None:
        """Accept a model by any of its names.

        Raises:
            ForbiddenError: the key may not use it; whether it exists is not told.
        """
        if not self.models or any(map(self.permits, (model, *other_names))):
            return
        raise ForbiddenError(
            f"The key '{self.name}' may not use the model '{model[:_SHOWN]}'.",
            param="model",
            code="model_not_allowed",
        )

    def cache_salt(self, asked: object) -> str | list[str]:
        """What goes to the backend as ``cache_salt``: unknown to others, the same every time.

        A client's own salts divide its own part of the cache, and reach into nobody else's.

        Args:
            asked: the client's ``cache_salt``, None if it sent none.

        Raises:
            BadRequestError: it is neither a string nor a list of strings.
        """
        if isinstance(asked, str | None):
            return self._mixed(asked or "")
        if isinstance(asked, list) and all(isinstance(item, str) for item in asked):
            return [self._mixed(item) for item in asked]
        raise BadRequestError(
            "'cache_salt' must be a string or a list of strings.", param="cache_salt"
        )

    def _mixed(self, asked: str) -> str:
        # a lone surrogate cannot come out of the JSON parser, but must not break this
        text = b"cache_salt " + asked.encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, text, "sha256").hex()[:_SALT_DIGITS]


def make_key(configured: ApiKey, meter: Meter) -> Key:
    """The key of a configured client."""
    return Key(
        name=configured.name,
        models=tuple(tuple(pattern.split("*")) for pattern in configured.models),
        salted=configured.cache_salt,
        meter=meter,
        secret=configured.digest,
    )


def _fits(pattern: tuple[str, ...], text: str) -> bool:
    """Whether ``text`` is the parts of ``pattern`` with anything between them, in linear time."""
    if len(pattern) == 1:
        return text == pattern[0]
    first, *middle, last = pattern
    if not text.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - at >= len(last) and text.endswith(last)
