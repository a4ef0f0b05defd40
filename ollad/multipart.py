"""A look into multipart forms (RFC 7578) for one short field."""

from __future__ import annotations

from email.parser import HeaderParser
from typing import Final

__all__ = ["form_field"]

_LONGEST_VALUE: Final = 1024


def form_field(body: bytes, boundary: str, name: str) -> str | None:
    """The value of the first field called ``name``, or None if there is none worth reading."""
    for part in body.split(b"--" + boundary.encode("latin-1", "replace"))[1:]:
        head, separator, value = part.partition(b"\r\n\r\n")
        if not separator or len(value) > _LONGEST_VALUE:
            continue
        headers = HeaderParser().parsestr(head.lstrip(b"\r\n").decode("latin-1"))
        if headers.get_param("name", header="Content-Disposition") == name:
            return value.removesuffix(b"\r\n").decode("utf-8", "replace")
    return None
