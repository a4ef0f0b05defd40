"""What is wrong with a configuration file, collected with positions and told without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["InvalidValueError", "Mark", "Problems", "joined", "safe_url", "shown"]

_LONGEST_SHOWN: Final = 60
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_./:-]+")
_USER_INFO: Final = re.compile(r"(//|^(?!.*//)).*@", re.DOTALL)
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file; both numbers count from 1."""

    line: int
    column: int


class InvalidValueError(Exception):
    """A text is not what its key takes.

    Attributes:
        reason: what is wrong with it; never contains the text itself.
        fix: what to write instead, often made from the text, so not for secrets; may be empty.
    """

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class Problems:
    """Collects problems by key path; knows where in the file each key's value stands."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._places: dict[str, Mark] = {}
        self._texts: dict[str, str] = {}
        self._found: list[tuple[Mark, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def place(self, key_path: str, mark: Mark, text: str = "") -> None:
        """Remember where the value of ``key_path`` stands, and its text before substitution."""
        self._places[key_path] = mark
        self._texts[key_path] = text

    def written(self, key_path: str, default: str) -> str:
        """The value of ``key_path`` as the file has it, quoted; ``default`` if it has none."""
        text = self._texts.get(key_path)
        return shown(text) if text else default

    def add(self, key_path: str, message: str, mark: Mark | None = None) -> None:
        """Record a problem.

        Args:
            key_path: such as ``endpoints[0].url``; empty for the file as a whole.
            message: one line without secrets.
            mark: its place; None takes that of the key or of what contains the key.
        """
        text = f"{key_path}: {message}" if key_path else message
        self._found.append((mark or self._nearest(key_path), text))

    def lines(self) -> tuple[str, ...]:
        """Every problem as ``FILE:LINE:COLUMN: KEY: MESSAGE``, in the order of the file."""
        return tuple(
            f"{self._path}:{mark.line}:{mark.column}: {text}"
            for mark, text in sorted(dict.fromkeys(self._found))
        )

    def _nearest(self, key_path: str) -> Mark:
        while key_path not in self._places and key_path:
            key_path = key_path[: max(key_path.rfind("."), key_path.rfind("["), 0)]
        return self._places.get(key_path, Mark(1, 1))


def joined(path: str, key: str) -> str:
    """The path of ``key`` inside ``path``."""
    name = key if _PLAIN_KEY.fullmatch(key) and len(key) <= _LONGEST_SHOWN else f"[{shown(key)}]"
    return f"{path}.{name}" if path and not name.startswith("[") else path + name


def shown(text: str) -> str:
    """``text`` quoted for a message: one line, bounded, without the credentials of a URL."""
    if "//" in text or "@" in text:
        text = safe_url(text)
    if len(text) > _LONGEST_SHOWN:
        text = text[:_LONGEST_SHOWN] + "…"
    return repr(text)


def safe_url(url: str) -> str:
    """``url`` with its user information, query and fragment masked."""
    return _QUERY.sub("?***", _USER_INFO.sub(r"\1***@", url))
