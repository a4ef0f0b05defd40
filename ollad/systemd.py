"""Talking to systemd: readiness, status, watchdog, sockets that it opened.

What is told (sd_notify(3), sd_watchdog_enabled(3)) is a datagram of ``KEY=value`` lines to the
socket that ``NOTIFY_SOCKET`` names; without it every call does nothing. Sockets come as
descriptors from number 3 on (sd_listen_fds(3)).
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

import structlog

from ollad.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["FIRST_DESCRIPTOR", "PROXY", "Notifier", "inherited_sockets", "watchdog_seconds"]

FIRST_DESCRIPTOR: Final = 3
"""``SD_LISTEN_FDS_START``."""

PROXY: Final = "proxy"
"""``FileDescriptorName=`` of the sockets that the API is served on."""

_NAMELESS: Final = "unknown"
"""What sd_listen_fds_with_names(3) calls a descriptor without a name."""

_PATIENCE_SECONDS: Final = 0.1
"""How long a full queue of the service manager is waited for; the event loop stands still then."""


class Notifier:
    """Sends the daemon's state to the service manager.

    Args:
        environ: the environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the NUL of Linux's abstract namespace
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self, status: str) -> None:
        """Serving; ``status`` is for ``systemctl status``."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Taking on a new configuration; ``ready`` ends it.

        Both lines go in one datagram, as systemd 253 and later want it.
        """
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str, seconds: float) -> None:
        """On the way out, which may take ``seconds``."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *fields: str) -> None:
        """Send one datagram; a manager that takes none now is no reason to stand still or stop."""
        if not self._address:
            return
        lines = (" ".join(field.splitlines()) for field in fields)  # a line is a field of its own
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(_PATIENCE_SECONDS)
            try:
                channel.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                structlog.get_logger().warning(
                    "service manager not told", field=fields[0], reason=str(error)
                )


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """How often the service manager wants to hear from process ``pid``, or None if it does not."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 1e6 or None


def inherited_sockets(
    environ: Mapping[str, str],
    pid: int,
    names: Collection[str],
    *,
    first: int = FIRST_DESCRIPTOR,
) -> dict[str, tuple[socket.socket, ...]]:
    """The listening sockets that the service manager opened for process ``pid``.

    Each descriptor becomes a socket object that owns it, so this is for one call a process.

    Args:
        environ: the environment.
        pid: the process; what is for another is left alone.
        names: what they may be called, so that none is served on by mistake.
        first: the number of the first descriptor.

    Returns:
        Sockets by the ``FileDescriptorName=`` of their unit; several addresses of one unit share
        its name. The order of the names differs between versions of systemd and means nothing.

    Raises:
        ListenError: one of them has another name or is no listening stream socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID", "") != str(pid) or not count.isdecimal():
        return {}
    given = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, tuple[socket.socket, ...]] = {}
    for index in range(int(count)):
        name = given[index] if index < len(given) and given[index] else _NAMELESS
        if name not in names:
            raise ListenError(
                f"a socket called '{name}' was handed over; its unit wants FileDescriptorName="
                + " or ".join(sorted(names))
            )
        found[name] = (*found.get(name, ()), _listener(first + index, name))
    return found


def _listener(descriptor: int, name: str) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"descriptor {descriptor} ('{name}') is no socket") from error
    listener.set_inheritable(False)
    is_stream = listener.type == socket.SOCK_STREAM
    if not (is_stream and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        listener.close()
        raise ListenError(
            f"descriptor {descriptor} ('{name}') is no listening stream socket; its unit wants "
            "ListenStream= and Accept=no"
        )
    return listener
