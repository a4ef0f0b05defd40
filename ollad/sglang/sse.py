"""The text of server-sent events (WHATWG HTML §9.2.6) and the JSON in it."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

__all__ = [
    "BOUNDARY",
    "cut_usage",
    "event_data",
    "first_document",
    "is_lone_event",
    "json_object",
    "next_boundary",
]

BOUNDARY: Final = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)")
"""The blank line after an event, whatever its line endings."""

_NEWLINE: Final = 0x0A
_RETURN: Final = 0x0D  # Python looks for one byte in bytes much sooner if it is a number

_MOST_ENDS: Final = 32  # objects nested in a usage or meta_info are a handful


def event_data(event: bytes) -> bytes | None:
    """The data of one event, None if it has none."""
    if event.startswith(b"data:") and _NEWLINE not in event and _RETURN not in event:
        return event[5:].removeprefix(b" ")
    lines = [
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def json_object(data: bytes) -> dict[str, Any] | None:
    """``data`` parsed, None if it is no JSON object."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def next_boundary(text: bytes | bytearray, start: int, returns: bool) -> tuple[int, int]:
    """Where the next blank line begins and ends; it begins at -1 if there is none.

    Args:
        text: of events.
        start: where to look from.
        returns: whether there are carriage returns in ``text``; without them it is found sooner.
    """
    if returns:
        boundary = BOUNDARY.search(text, start)
        return (-1, -1) if boundary is None else boundary.span()
    at = text.find(b"\n\n", start)
    return (at, at + 2) if at >= 0 else (-1, -1)


def is_lone_event(text: bytes) -> bool:
    """Whether ``text`` is one whole event that has one line, of data, as most often."""
    return (
        text.startswith(b"data:")
        and text.endswith(b"\n\n")
        and text.find(b"\n") == len(text) - 2
        and _RETURN not in text
    )


def first_document(start: bytes) -> dict[str, Any] | None:
    """The first event of ``start`` that has data, parsed."""
    returns = _RETURN in start
    begin, end = 0, 0
    while end >= 0:
        end, after = next_boundary(start, begin, returns)
        data = event_data(start[begin:end] if end >= 0 else start[begin:])
        if data is not None:
            return json_object(data)
        begin = after
    return None


def cut_usage(data: bytes, key: bytes) -> dict[str, Any] | None:
    """The last object called ``key`` with token counts in an event whose start is missing.

    Inside a JSON string the name's quotation marks would be escaped, so it is a real member.
    """
    at = data.rfind(key)
    while at >= 0:
        found = _object_at(data, at + len(key))
        if found is not None and ("prompt_tokens" in found or "input_tokens" in found):
            return found
        at = data.rfind(key, 0, at)
    return None


def _object_at(data: bytes, start: int) -> dict[str, Any] | None:
    """The JSON object that begins at ``start``, found by trying its possible ends."""
    end = start
    for _ in range(_MOST_ENDS):
        end = data.find(b"}", end) + 1
        if not end:
            break
        found = json_object(data[start:end])
        if found is not None:
            return found
    return None
