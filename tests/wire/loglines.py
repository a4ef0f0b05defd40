"""What ollad logs during a test, as JSON lines."""

from __future__ import annotations

import io
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from ollad.config.schema import Logging
from ollad.logs import configure

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LogLines", "logging_to_memory"]


class LogLines:
    """The lines logged so far."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        """Everything."""
        return self._stream.getvalue().decode()

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        """Each line parsed; only those of one event if it is given."""
        entries = [json.loads(line) for line in self.text.splitlines()]
        return [entry for entry in entries if event is None or entry["event"] == event]

    def requests(self) -> list[dict[str, Any]]:
        """The access lines."""
        return self.entries("request")


@contextmanager
def logging_to_memory(level: str = "info") -> Iterator[LogLines]:
    """Log as ``ollad serve`` does, into memory."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    stream = io.BytesIO()
    configure(Logging(level=level, format="json"), stream=stream, environ={})
    try:
        yield LogLines(stream)
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(before)
        structlog.reset_defaults()
