"""How much of what was written has arrived at the other end, by the kernel's own account."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

__all__ = ["acknowledged"]

_BYTES_ACKED: Final = 120
"""Where ``tcpi_bytes_acked`` is in ``struct tcp_info`` (linux/tcp.h), which has it since 4.1."""
_INFORMATION_BYTES: Final = _BYTES_ACKED + 8
_SYN: Final = 1
"""The opening of a connection is acknowledged like a byte."""


def acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the kernel at the other end has taken since the connection was opened.

    Where that cannot be told, as many as there can be: of TLS, which adds to what is written, and
    of kernels that do not count.
    """
    if transport.get_extra_info("sslcontext") is not None:
        return sys.maxsize
    connection = transport.get_extra_info("socket")
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFORMATION_BYTES)
    if len(information) < _INFORMATION_BYTES:
        return sys.maxsize
    count: int = struct.unpack_from("=Q", information, _BYTES_ACKED)[0]
    return count - _SYN
