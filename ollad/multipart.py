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
    found = None
    start = 0 if body.startswith(delimiter[2:]) else body.find(delimiter)
    start = body.find(b"\r\n", start + 2) if start >= 0 else -1
    while start >= 0:
        end = body.find(delimiter, start)
        if end < 0:
            break
        found = _field(body, start + 2, end, name) or found
        after = end + len(delimiter)
        if body.startswith(b"--", after):  # the closing delimiter
            break
        start = body.find(b"\r\n", after)
    return found


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
