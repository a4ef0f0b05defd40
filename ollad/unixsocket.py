"""Listening sockets that are files."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GROUP", "OWNER", "bind_unix"]

OWNER: Final = 0o177
"""The umask for a socket that its owner alone may use; root always may."""
GROUP: Final = 0o117
"""The umask for a socket that its owner's group may use as well."""


def bind_unix(path: Path, umask: int) -> socket.socket:
    """A socket bound to ``path``; one that a dead daemon left there is replaced.

    Args:
        path: of the socket; its directory is made if need be.
        umask: which permissions it is not to have.

    Raises:
        OSError: it cannot be made, or another daemon listens there.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if path.is_socket():
        if _answers(path):
            raise FileExistsError("another ollad takes its orders there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(umask)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
