"""TCP ports for programs that must be told theirs, and may take long until they listen on it."""

from __future__ import annotations

import random
import socket
from typing import Final

__all__ = ["free_ports"]

_CANDIDATES: Final = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections, so that none of these takes one
before the program listens (ip-sysctl, ``ip_local_port_range``)."""


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that nobody uses now.

    Raises:
        RuntimeError: if there are not that many.
    """
    found: list[int] = []
    for port in random.sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            return tuple(found)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise RuntimeError(f"less than {count} free ports on 127.0.0.1")
