"""The figures of single events, and how those of several make those of a stream."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from ollad.sglang.annotate import Usage, generate_usage, openai_usage
from ollad.sglang.values import mapping

__all__ = ["added_up", "event_usage", "figures", "merged", "tells_figures", "unparsed_usage"]

_REASON: Final = b'"finish_reason":"'
_USUAL_REASON: Final = re.compile(rb"([a-z_]{1,32})\"")
_REASONS: Final = 32


def tells_figures(text: bytes) -> bool:
    """Whether there are figures in ``text``, of any events, or words that look like them."""
    find = text.find  # which is quicker than ``in`` and one pattern for all of them
    return (
        find(b'"usage"') >= 0
        or find(b'"sglext"') >= 0
        or find(b'"metrics"') >= 0
        or find(b'"meta_info"') >= 0
    )


def unparsed_usage(text: bytes) -> Usage | None:
    """Figures of events of an OpenAI stream, if they tell none but why it was finished.

    Inside a JSON string the quotation marks of a name are escaped, so a name that is not found is
    not there.

    Returns:
        None if they have to be parsed.
    """
    if tells_figures(text):
        return None
    at = text.rfind(_REASON)
    if at < 0:
        return _finished(None)
    reason = _USUAL_REASON.match(text, at + len(_REASON))
    return None if reason is None else _finished(reason[1])


@functools.lru_cache(_REASONS)
def _finished(reason: bytes | None) -> Usage:
    return Usage(finish_reason=None if reason is None else reason.decode())


def figures(document: dict[str, Any], kind: str) -> Usage | None:
    """Figures of one event; None if it has no place for them."""
    match kind:
        case "generate":
            return generate_usage(document) if "meta_info" in document else None
        case "responses":
            response = mapping(document.get("response"))
            return openai_usage(response) if mapping(response.get("usage")) else None
        case _:
            return event_usage(document)


def event_usage(document: dict[str, Any]) -> Usage:
    """Figures of one event of an OpenAI or Anthropic stream."""
    message = document.get("message")  # message_start
    if isinstance(message, dict):
        return openai_usage(message)
    reason = mapping(document.get("delta")).get("stop_reason")  # message_delta
    if reason is not None or "stop_reason" in document:
        document = {**document, "stop_reason": reason}
    return openai_usage(document)


def merged(found: Usage, earlier: Usage) -> Usage:
    """``found``, with what it lacks taken from an earlier event."""
    return Usage._make(
        [mine if mine is not None else theirs for mine, theirs in zip(found, earlier, strict=True)]
    )


def added_up(usages: list[Usage]) -> Usage:
    """Token counts of several prompts together; times and reasons belong to one alone."""

    def total(name: str) -> int | None:
        values = [getattr(usage, name) for usage in usages]
        return None if None in values else sum(values)

    spec = [usage.spec_used for usage in usages if usage.spec_used is not None]
    return Usage(
        prompt_tokens=total("prompt_tokens"),
        completion_tokens=total("completion_tokens"),
        cached_tokens=total("cached_tokens"),
        image_tokens=total("image_tokens"),
        spec_used=any(spec) if spec else None,
    )
