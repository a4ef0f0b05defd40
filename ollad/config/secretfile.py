"""Secrets that are kept in a file of their own, such as a systemd credential."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ollad.config.problems import InvalidValueError

__all__ = ["read_secret"]

_LARGEST: Final = 64 * 1024


def read_secret(path: str) -> str:
    """The content of the file at ``path``, an absolute path, without its trailing line break.

    Raises:
        InvalidValueError: it cannot be read, is not UTF-8, or has more than 64 KiB.
    """
    if not path.startswith("/"):
        raise InvalidValueError("the path of a secret must start with '/'")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidValueError(f"cannot read it: {error.strerror}") from None
    except ValueError:  # a character that no path can have
        raise InvalidValueError("not a path") from None
    if len(content) > _LARGEST:
        raise InvalidValueError("more than 64 KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidValueError("not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
