"""Edits of JSON text that leave every other byte as it was.

A request or reply is parsed once, to be read; what ollad changes in it is spliced into the
original bytes, so that spacing, order, number formats and duplicates survive.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "MAX_DEPTH",
    "append_members",
    "load_object",
    "parse_object",
    "refuse_nesting",
    "replace_members",
]

MAX_DEPTH: Final = 200
"""Levels of nesting taken; Python servers behind ollad recurse and give up near 1000."""

_SPACE: Final = b" \t\n\r"
_BRACE: Final = 0x7B  # an opening one
# Possessive quantifiers (3.11) keep a long string full of escapes from filling the backtracking
# stack.
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MEMBER: Final = re.compile(rb"[ \t\n\r,]*(" + _STRING + rb")[ \t\n\r]*:[ \t\n\r]*", re.DOTALL)
_STRING_VALUE: Final = re.compile(_STRING, re.DOTALL)
_SCALAR: Final = re.compile(rb"[^ \t\n\r,}]+")
_BRACKET: Final = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)

_SHORT: Final = 16 * 1024
"""Bytes up to which it is quicker to look at all of a document than to count its brackets."""

_KINDS: Final[Mapping[type, str]] = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a request body that has to be one JSON object (RFC 8259, UTF-8, no extensions).

    Raises:
        BadRequestError: it is empty, not UTF-8, not JSON, nested deeper than ``MAX_DEPTH``
            levels, or no object; the message says which and where.
    """
    document = load_object(body)
    if len(body) > 2 * MAX_DEPTH:
        refuse_nesting(body, document)
    return document


def load_object(body: bytes) -> dict[str, Any]:
    """Parse a request body like ``parse_object``, but leave its depth to ``refuse_nesting``.

    Raises:
        BadRequestError: it is empty, not UTF-8, not JSON, or no object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _explain(body, error) from error
    if type(document) is not dict:
        raise BadRequestError(
            f"the request body must be a JSON object, not {_KINDS[type(document)]}"
        )
    return document


def refuse_nesting(body: bytes, document: dict[str, Any]) -> None:
    """Refuse a document that ``load_object`` made of ``body`` if it is too deep.

    Raises:
        BadRequestError: it is nested deeper than ``MAX_DEPTH`` levels.
    """
    if len(body) > 2 * MAX_DEPTH and _may_be_deep(body, document) and _too_deep(document):
        raise _nested()


def _may_be_deep(body: bytes, document: dict[str, Any]) -> bool:
    """Whether there is reason to look into all of a document; False is certain.

    Two levels down most requests hold nothing but text. A long one that holds more can only be
    deep if it has more brackets than levels are allowed, which is quicker to find out than to look
    at all of it.
    """
    for value in document.values():
        kind = type(value)
        if kind is dict:
            value = value.values()  # noqa: PLW2901
        elif kind is not list:
            continue
        for inner in value:
            kind = type(inner)
            if kind is dict:
                for child in inner.values():
                    kind = type(child)
                    if kind is not str and (kind is dict or kind is list):
                        return len(body) <= _SHORT or _has_brackets(body, MAX_DEPTH + 1)
            elif kind is list:
                return len(body) <= _SHORT or _has_brackets(body, MAX_DEPTH + 1)
    return False


def _has_brackets(body: bytes, count: int) -> bool:
    """Whether at least ``count`` arrays and objects begin in ``body``."""
    for bracket in (b"[", b"{"):
        place = body.find(bracket)
        while place >= 0:  # bytes.count takes a step for each byte, find one for each bracket
            count -= 1
            if not count:
                return True
            place = body.find(bracket, place + 1)
    return False


def _explain(body: bytes, error: orjson.JSONDecodeError) -> BadRequestError:
    """Say in the words of whoever wrote the body why it cannot be read."""
    if not body.strip(_SPACE):
        return BadRequestError("the request body is empty; send a JSON object")
    try:
        body.decode()
    except UnicodeDecodeError as fault:
        return BadRequestError(f"the request body is not UTF-8: invalid at byte {fault.start}")
    if "depth" in error.msg or "recursion" in error.msg.lower():
        return _nested()
    return BadRequestError(
        f"the request body is not valid JSON: {error.msg} (line {error.lineno}, "
        f"column {error.colno})"
    )


def _nested() -> BadRequestError:
    return BadRequestError(f"the request body is nested deeper than {MAX_DEPTH} levels")


def _too_deep(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def replace_members(body: bytes, values: Mapping[str, bytes]) -> bytes:
    """Replace the values of top-level members.

    Args:
        body: text of a valid JSON object.
        values: JSON text by member name. Each occurrence of a duplicate name is replaced, and
            so is a name written with escapes; names that do not occur are left out.

    Returns:
        The new text; every byte outside the replaced values is the same.
    """
    wanted = {name.encode(): text for name, text in values.items()}
    pieces: list[bytes] = []
    copied = 0
    for name, start, end in _members(body):
        text = wanted.get(name)
        if text is not None:
            pieces += (body[copied:start], text)
            copied = end
    if not pieces:
        return body
    pieces.append(body[copied:])
    return b"".join(pieces)


def append_members(body: bytes, members: Mapping[str, bytes]) -> bytes:
    """Add members behind the last one of a JSON object.

    Args:
        body: text of a valid JSON object.
        members: JSON text by name, in the order in which they are added.

    Returns:
        The new text: the members stand directly before the closing brace, and every other byte
        is the same.
    """
    if not members:
        return body
    end = body.rindex(b"}")
    # Only the opening brace of an empty object can stand before the closing one.
    last = body[end - 1]
    empty = last == _BRACE or (last in _SPACE and body[:end].rstrip(_SPACE).endswith(b"{"))
    pieces = [body[:end]]
    separator = b"" if empty else b","
    for name, text in members.items():
        pieces += (separator, orjson.dumps(name), b":", text)
        separator = b","
    pieces.append(body[end:])
    return b"".join(pieces)


def _members(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the value of each top-level member of a valid object."""
    position = body.index(b"{") + 1
    while member := _MEMBER.match(body, position):
        name = member[1]
        plain = name[1:-1] if b"\\" not in name else orjson.loads(name).encode()
        position = _value_end(body, member.end())
        yield plain, member.end(), position


def _value_end(body: bytes, start: int) -> int:
    """Where the value that begins at ``start`` ends."""
    opening = body[start]
    if opening == 0x22:  # a quotation mark
        return _end(_STRING_VALUE.match(body, start))
    if opening not in b"[{":
        return _end(_SCALAR.match(body, start))
    depth = 0
    for token in _BRACKET.finditer(body, start):
        kind = body[token.start()]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
            if not depth:
                return token.end()
    raise _invalid()


def _end(match: re.Match[bytes] | None) -> int:
    if match is None:
        raise _invalid()
    return match.end()


def _invalid() -> ValueError:
    return ValueError("the text is not a valid JSON object; parse it before it is edited")
