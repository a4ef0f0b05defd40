"""The canonical form of prompts: what is hashed to know them again.

A conversation is written message by message, each with a mark at its start, so that a further
message, or a further word of the last one, only adds to the end. Media are written as a print of
their data, repeated to about the length of text that they weigh in tokens. Whatever has an
unexpected shape is written somehow; to refuse it is up to the backend. The text is left in pieces,
since a long one is better not copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "answer_text",
    "chat_text",
    "messages_text",
    "plain_prompt",
    "responses_text",
    "stand_in",
]

_MEDIUM_LENGTH: Final = 4096
"""Characters for which a medium stands; an image of a megapixel is about a thousand tokens."""
_MEDIA: Final = ("image", "video", "audio", "file", "document")
"""What types of content parts that are no text have in their names, in OpenAI's APIs and
Anthropic's."""
_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_IGNORED: Final = frozenset({"role", "content", "reasoning_content", "refusal", "annotations"})
"""Members of a message that stand elsewhere or that chat templates leave out."""
_MASK: Final = (1 << 64) - 1


def chat_text(document: Mapping[str, Any]) -> list[str]:
    """Write down ``tools`` and ``messages`` of ``/v1/chat/completions``."""
    tools = document.get("tools")
    pieces = [_json(tools)] if tools and document.get("tool_choice") != "none" else []
    _write_messages(document.get("messages"), pieces)
    return pieces


def messages_text(document: Mapping[str, Any]) -> list[str]:
    """Write down ``tools``, ``system`` and ``messages`` of Anthropic's ``/v1/messages``."""
    tools, system = document.get("tools"), document.get("system")
    pieces = [_json(tools)] if tools else []
    if system:
        pieces += ("\2system\3", _content(system))
    _write_messages(document.get("messages"), pieces)
    return pieces


def responses_text(document: Mapping[str, Any]) -> list[str]:
    """Write down ``tools``, ``instructions`` and ``input`` of ``/v1/responses``."""
    tools, instructions, said = map(document.get, ("tools", "instructions", "input"))
    pieces = [_json(tools)] if tools else []
    if instructions:
        pieces += ("\2system\3", _content(instructions))
    if isinstance(said, str):
        pieces += ("\2user\3", said)
    else:
        _write_messages(said, pieces)
    return pieces


def answer_text(message: Mapping[str, Any] | str) -> str:
    """What an answer will add to the conversation: a message of a chat, or text as it is."""
    if isinstance(message, str):
        return message
    pieces: list[str] = []
    _write_messages([message], pieces)
    return "".join(pieces)


def plain_prompt(prompt: object) -> tuple[str | list[Any], int]:
    """The first of the prompts that ``prompt``, ``text`` or ``input_ids`` holds.

    Returns:
        The prompt, as text or as token ids, and how many there are. Of several, which SGLang runs
        as so many requests, the first speaks for all: they mostly begin alike.
    """
    if isinstance(prompt, str):
        return prompt, 1
    if isinstance(prompt, list) and prompt:
        first = prompt[0]
        if isinstance(first, str | list):
            return first, len(prompt)
        return prompt, 1
    return "", 1


def stand_in(medium: object) -> str:
    """What is written for an image, a video or a sound: equal for equal data."""
    print_ = f"\4{_print(medium) & _MASK:016x}"
    return print_ * (_MEDIUM_LENGTH // len(print_))


def _write_messages(messages: object, pieces: list[str]) -> None:
    if not isinstance(messages, list):
        return
    for message in messages:
        if not isinstance(message, dict):
            pieces += ("\2", _content(message))
            continue
        content = message.get("content")
        pieces += (
            f"\2{message.get('role')}\3",
            content if isinstance(content, str) else _content(content),
        )
        if len(message) > 2:
            more = {key: value for key, value in message.items() if value and key not in _IGNORED}
            if more:
                pieces += ("\5", _json(more))


def _content(content: object) -> str:
    """What stands in a message: text, or parts of which some may be media."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join([_part(part) for part in content])
    return _json(content) if content else ""


def _part(part: object) -> str:
    if not isinstance(part, dict):
        return _content(part)
    kind = part.get("type")
    text = part.get("text")
    if isinstance(kind, str):
        if kind in _TEXTS and isinstance(text, str):
            return text
        if any(medium in kind for medium in _MEDIA):
            return stand_in(part)
    return _json(part)


def _print(value: object) -> int:
    """A hash of a JSON value."""
    if isinstance(value, dict):
        return hash(tuple([(key, _print(item)) for key, item in value.items()]))
    if isinstance(value, list):
        return hash(tuple([_print(item) for item in value]))
    return hash(value)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
