"""Chunked bodies that can be passed on as they are.

A server that streams sends one chunk for each event, and the next hop may have it byte for byte:
then nothing has to be parsed but the size line. Here is what tells such bytes from all others,
which are left to llhttp. That is certain, since where one chunk ends the next begins
(RFC 9112 §7.1): whoever has followed a body from its beginning cannot take text for framing.
"""

from __future__ import annotations

import functools
import re
from typing import Final

__all__ = ["UNKNOWN", "opening", "split"]

UNKNOWN: Final = -1
"""Said of the place in a body, once it is lost."""

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")
_LINE_END: Final = b"\r\n"
_LENGTHS: Final = 4096
"""Lengths of chunks whose size line is remembered."""


@functools.lru_cache(_LENGTHS)
def opening(length: int) -> bytes:
    """The size line of the one chunk that ``length`` bytes can be, line ends included.

    Returns:
        The line as servers write it; of lengths that no such chunk has, nothing.
    """
    for digits in range(1, 7):
        size = length - digits - 2 * len(_LINE_END)
        if size > 0 and len(line := b"%x" % size) == digits:
            return line + _LINE_END
    return b""


def split(data: bytes, start: int = 0) -> tuple[list[bytes], int]:
    """Take chunks apart, but for the last one of a body, which is empty.

    Args:
        data: bytes of a body.
        start: where in them a chunk begins.

    Returns:
        What the whole chunks hold, and how many bytes are missing of the one at the end: none
        where a chunk ends with ``data``, ``UNKNOWN`` where it is anything but another chunk.
    """
    line = opening(len(data) - start)
    if line and data.startswith(line, start) and data.endswith(_LINE_END):
        return [data[start + len(line) : -len(_LINE_END)]], 0  # one chunk, as most often
    held: list[bytes] = []
    while start < len(data):
        found = _SIZE.match(data, start)
        size = 0 if found is None else int(found[1], 16)
        if found is None or size == 0:
            return held, UNKNOWN
        begin, end = found.end(), found.end() + size
        start = end + len(_LINE_END)
        if start > len(data):
            return held, start - len(data)
        if data[end:start] != _LINE_END:
            return held, UNKNOWN
        held.append(data[begin:end])
    return held, 0
