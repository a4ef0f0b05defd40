"""A terminal taken over for a live view, and given back as it was."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Painter = Callable[[int, int], Sequence[str]]

__all__ = ["Screen"]

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""Alternate screen, no cursor, no wrapping of long lines (xterm, "Control sequences")."""

_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[2K"
_CLEAR_BELOW: Final = "\x1b[J"
_UNKNOWN_SIZE: Final = (80, 24)


class Screen:
    """The terminal, from the first ``show`` to the end of the block.

    While it is taken, keys are not echoed; Ctrl-C and Ctrl-Z stay signals.
    """

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._painter: Painter | None = None
        self._modes: list[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._leave()
        self._painter = None

    def show(self, painter: Painter) -> None:
        """Draw what ``painter`` makes for so many columns and rows; kept for ``redraw``."""
        if self._painter is None:
            self._enter()
        self._painter = painter
        self.redraw()

    def redraw(self) -> None:
        """Draw again, for the size that the terminal has now."""
        if self._painter is None:
            return
        columns, rows = self._size()
        lines = self._painter(columns, rows)
        text = "\r\n".join(_CLEAR_LINE + line for line in lines)
        # the cursor stays on the last character of a full line, which clearing would take along
        rest = "\r\n" + _CLEAR_BELOW if len(lines) < rows else ""
        self._write(_HOME + text + rest)

    def suspend(self) -> None:
        """Give the terminal back and stop the process, until the shell continues it."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._painter is not None:
            self._enter()
            self.redraw()

    def _enter(self) -> None:
        if sys.stdin.isatty():
            self._modes = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._write(_ENTER)

    def _leave(self) -> None:
        if self._painter is not None:
            self._write(_LEAVE)
        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)
            self._modes = None

    def _size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._output.fileno())
        except OSError:
            return _UNKNOWN_SIZE
        return columns or _UNKNOWN_SIZE[0], rows or _UNKNOWN_SIZE[1]

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
