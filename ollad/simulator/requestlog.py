"""JSON lines about every generation request: what tests count with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RequestLog", "prompt_ids"]

_ID: Final = re.compile(rb"\[id:([^\]\s\"\\]{1,128})\]")


def prompt_ids(body: bytes) -> list[str]:
    """The ids that stand in a request as ``[id:…]``, each once, in order."""
    return list(dict.fromkeys(match.decode(errors="replace") for match in _ID.findall(body)))


class RequestLog:
    """Appends to a file, a line at a time, so that even a killed server leaves whole lines.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        # O_NONBLOCK: lines go to the page cache, nothing here may wait for a disk or a reader.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = None if path is None else os.open(path, flags, 0o644)

    def write(self, **fields: Any) -> None:
        """Append a line; nothing happens if there is no file."""
        if self._file is not None:
            os.write(self._file, orjson.dumps(fields) + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
