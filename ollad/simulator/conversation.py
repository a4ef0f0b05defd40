"""Chat messages as a prompt: a template in the manner of ChatML, tokenised message by message.

Every message's content is tokenised for itself, so that an answer has the same tokens when it was
generated and when it comes back in the next turn: that is what prefix caching lives on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ollad.simulator.tokens import END, START, encode, image_tokens

__all__ = ["Prompt", "UnsupportedContentError", "render"]

_NEWLINE: Final = tuple(encode("\n"))


class UnsupportedContentError(Exception):
    """A message holds what the model does not understand; the message is SGLang's."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model sees it.

    Attributes:
        tokens: its tokens, up to where the answer begins.
        images: how many of them stand for images.
    """

    tokens: tuple[int, ...]
    images: int


def render(body: Mapping[str, Any], *, image_size: int | None) -> Prompt:
    """Make a prompt of a chat request.

    Args:
        body: the request; its messages have been checked.
        image_size: tokens an image takes; None for a model without vision.

    Raises:
        UnsupportedContentError: there is an image and no vision, or another medium.
    """
    tokens: list[int] = []
    images = 0
    if body.get("tools"):
        tokens += encode(orjson.dumps(body["tools"]).decode())
    for message in body["messages"]:
        tokens += [START, *encode(f"{message.get('role')}\n")]
        for part in _parts(message):
            if part.get("type") == "text":
                tokens += encode(str(part.get("text", "")))
            else:
                picture = _picture(part, image_size)
                images += len(picture)
                tokens += picture
        tokens += [END, *_NEWLINE]
    tokens += [START, *encode("assistant\n")]
    return Prompt(tuple(tokens), images)


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    parts: list[Mapping[str, Any]] = []
    if isinstance(content, str):
        parts.append({"type": "text", "text": content})
    elif isinstance(content, list):
        parts += [part for part in content if isinstance(part, Mapping)]
    if message.get("tool_calls"):
        parts.append({"type": "text", "text": orjson.dumps(message["tool_calls"]).decode()})
    return parts


def _picture(part: Mapping[str, Any], image_size: int | None) -> tuple[int, ...]:
    kind = part.get("type")
    if image_size is None or kind != "image_url":
        raise UnsupportedContentError(
            f"Model only supports text input; received unsupported content type '{kind}'."
        )
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return tuple(image_tokens(str(url), image_size))
