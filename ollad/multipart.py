"""A look into multipart forms (RFC 7578) for one short field."""

from __future__ import annotations

from dataclasses import dataclass
from email.parser import HeaderParser
from typing import Final

__all__ = ["FormField", "form_field"]

_LONGEST_VALUE: Final = 1024
_LONGEST_HEAD: Final = 4096


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form: its value, and where that stands in the form's bytes."""

    value: str
    start: int
    end: int


def form_field(body: bytes, boundary: str, name: str) -> FormField | None:
    """Find the last field called ``name``, the one that Starlette reads.

    Args:
        body: the form.
        boundary: ASCII, without the leading dashes.
        name: the field's name.

    Returns:
        None if there is no such field, or its value is no short text.
    """
    # Each delimiter but the first is preceded by the line break that ends the part before it.
    delimiter = b"\r\n--" + boundary.encode()
    after = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _end(body, delimiter, 0)
    found = None
    while after >= 0 and not body.startswith(b"--", after):  # which closes the form
        start = body.find(b"\r\n", after)
        following = _end(body, delimiter, start) if start >= 0 else -1
        if following >= 0:
            found = _field(body, start + 2, following - len(delimiter), name) or found
        after = following
    return found


def _end(body: bytes, delimiter: bytes, start: int) -> int:
    """Where the next delimiter ends, or -1."""
    at = body.find(delimiter, start)
    return at + len(delimiter) if at >= 0 else -1


def _field(body: bytes, start: int, end: int, name: str) -> FormField | None:
    """The part between two delimiters, if it is the field called ``name`` and short."""
    blank = body.find(b"\r\n\r\n", start, min(end, start + _LONGEST_HEAD))
    value = blank + 4
    if blank < 0 or end - value > _LONGEST_VALUE:
        return None
    headers = HeaderParser().parsestr(body[start:blank].decode("latin-1"))
    if headers.get_param("name", header="Content-Disposition") != name:
        return None
    try:
        return FormField(body[value:end].decode(), value, end)
    except UnicodeDecodeError:
        return None
