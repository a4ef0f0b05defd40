"""Long chats, of whose texts no more is kept than their beginnings.

Of a long text nothing is read but how it begins, for routing; what is sent to the backend is the
body itself. So the middle of a text is checked piece by piece, each of which is forgotten before
the next, and the document is parsed without it. That takes neither the memory for a second copy of
the body nor the time to fill it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import stringzilla  # type: ignore[import-not-found]  # no stubs, as it is no package

from ollad.errors import BadRequestError
from ollad.jsontext import parse_object
from ollad.sglang.media import names_media

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["LONG", "Excerpt", "read_excerpt"]

LONG: Final = 2 * 1024 * 1024
"""Bytes from which a body is worth the trouble."""

_BEGINNING: Final = 1280 * 1024
"""Bytes kept of a text: as many as routing reads and a quarter more, for escapes are longer here
than there. Of a text that has more of them less is known there."""
_SHORTEST: Final = _BEGINNING // 12
"""Characters that are left of a text at least: one may be written as two of \\uXXXX."""
_PIECE: Final = 32 * 1024
"""Bytes checked at once; they and their copies fit a processor's cache."""

_NEEDS_PARSING: Final = bytes(range(0x20)) + b'"\\' + bytes(range(0x80, 0x100))
"""Bytes that a text may have with others only, or not at all (RFC 8259 §7)."""

_LONGEST_ESCAPE: Final = 6  # \uXXXX
_BACKSLASH: Final = ord("\\")
_LOW_SURROGATE: Final = re.compile(rb"\\u[dD][c-fC-F]")
_TRIES: Final = 64  # bytes among which a place between two characters is sought

_MARK: Final = b"zz"
"""Stands for what is left out: within a text it is text, anywhere else no JSON."""

_TEXTS: Final = frozenset({"content", "text"})
"""Members of messages, and of parts of their content, that routing alone reads."""
_VALUES: Final = frozenset({dict, list, str})


class Excerpt(NamedTuple):
    """A document without the middle of its long texts.

    Attributes:
        document: the document; what is left out of a text has a mark in its place.
        omitted: bytes left out that are words; 0 if there are media, whose bytes are none.
    """

    document: dict[str, Any]
    omitted: int


def read_excerpt(body: bytes) -> Excerpt | None:
    """Parse a long body without the middle of its long texts, if that will do.

    Returns:
        None unless the body is the valid text of an object whose only long texts are its
        ``prompt``, or what is said in its ``messages``, or ``data:`` URLs there; ``parse_object``
        says what else it is.
    """
    view = memoryview(body)
    pieces: list[bytes | memoryview] = []
    copied = 0
    for start, end in _middles(body):
        pieces += (view[copied:start], _MARK)
        copied = end
    if not pieces:
        return None
    pieces.append(view[copied:])
    text = b"".join(pieces)
    try:
        document = parse_object(text)
    except BadRequestError:
        return None
    if _needs_more(document):
        return None
    return Excerpt(document, 0 if names_media(document) else len(body) - len(text))


def _needs_more(document: Mapping[str, Any]) -> bool:
    """Whether there is a long text, perhaps cut, that somebody reads to its end.

    Names are among them: two that differ only in what was left out would have become one.
    """
    if _has_long_names(document):
        return True
    queue: list[tuple[Any, str, bool]] = [
        (value, name, name == "messages")
        for name, value in document.items()
        if type(value) in _VALUES and not (name == "prompt" and type(value) is str)
    ]
    for node, name, said in queue:  # grows while it is read
        if type(node) is str:
            if len(node) >= _SHORTEST and not (
                said and (name in _TEXTS or node.startswith("data:"))
            ):
                return True
        elif type(node) is dict:
            if _has_long_names(node):
                return True
            queue += [(value, key, said) for key, value in node.items() if type(value) in _VALUES]
        elif not _VALUES.isdisjoint(map(type, node)):
            queue += [(value, name, said) for value in node if type(value) in _VALUES]
    return False


def _has_long_names(node: Mapping[str, Any]) -> bool:
    return max(map(len, node), default=0) >= _SHORTEST


def _middles(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the middle of what may be a long text begins and ends.

    What makes up one string by itself (RFC 8259 §7) is all within one text, or outside of any.
    """
    view = memoryview(body)
    begin = place = start = 0
    while (end := _between(body, place + _PIECE)) >= 0:
        kept = end - begin <= _BEGINNING
        if (kept and body.find(b'"', place, end) < 0) or _is_text(view[place:end]):
            if not kept and not start:
                start = place
        else:
            if start:
                yield start, place
            start, begin = 0, end
        place = end
    if start:
        yield start, place


def _is_text(piece: memoryview) -> bool:
    if stringzilla.find_first_of(piece, _NEEDS_PARSING) < 0:  # ten times as quick as parsing it
        return True
    try:
        orjson.loads(b"".join((b'"', piece, b'"')))
    except orjson.JSONDecodeError:
        return False
    return True


def _between(body: bytes, place: int) -> int:
    """The first place from ``place`` on that is certainly between two characters of a text.

    Returns:
        It; -1 if there is none near.
    """
    for at in range(place, min(place + _TRIES, len(body))):
        if body[at] == _BACKSLASH:
            # an escape begins, and not the second half of a character
            if body[at - 1] != _BACKSLASH and not _LOW_SURROGATE.match(body, at):
                return at
        elif body[at] & 0xC0 != 0x80 and body.find(b"\\", at - _LONGEST_ESCAPE, at) < 0:
            return at
    return -1
