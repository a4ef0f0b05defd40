"""Secrets: those kept in a file of their own, such as a systemd credential, and clients' keys."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from ollad.config.problems import InvalidValueError

__all__ = ["key_digest", "read_secret", "sha256_digest"]

_LARGEST: Final = 64 * 1024
_KEY: Final = re.compile(r"[\x21-\x7e]{16,1024}")
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")


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


def key_digest(key: str) -> str:
    """The SHA-256 of a client's key, hexadecimal.

    A plain hash is enough for a secret that cannot be guessed, so short ones are refused.

    Raises:
        InvalidValueError: it is too short, or no client could send it.
    """
    if not _KEY.fullmatch(key):
        raise InvalidValueError(
            "a key has 16 or more visible ASCII characters and no spaces; "
            "'openssl rand -hex 32' makes a good one"
        )
    return hashlib.sha256(key.encode()).hexdigest()


def sha256_digest(text: str) -> str:
    """A SHA-256 as it is written, in lower case.

    Raises:
        InvalidValueError: it is none, or that of an empty key.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidValueError("a SHA-256 has 64 hexadecimal digits")
    if text.lower() == hashlib.sha256(b"").hexdigest():
        raise InvalidValueError("this is the SHA-256 of nothing; the key was empty")
    return text.lower()
