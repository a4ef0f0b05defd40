"""What the C library does with memory that was given back: keep it for the next long body.

By default glibc returns the memory of every long body, of the document parsed from it and of each
of their copies to the kernel at once, which then has to clear all of it anew for the next one
(mallopt(3)): more than half of what a body of 8 MiB costs.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""

_MOST_KEPT: Final = 256 * 1024 * 1024
"""Free bytes at the end of the heap above which it is shortened."""
_HEAP_BLOCKS: Final = 256 * 1024 * 1024
"""Bytes from which a block has a mapping of its own, which ends with it. orjson wants twelve times
the length of a text, most of which it never touches."""


def keep_freed_memory() -> bool:
    """Keep up to 256 MiB of what was used for the next use.

    Returns:
        Whether the C library does so; musl and old versions of glibc do not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    # the second alone would end glibc's own adaption to what is used
    return bool(mallopt(_MMAP_THRESHOLD, _HEAP_BLOCKS) and mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
