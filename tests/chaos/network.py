"""Where the backends are, and how they are cut off.

Each backend has a network namespace of its own, joined by a pair of virtual Ethernet devices. A
``blackhole`` queueing discipline on both of them drops every packet in silence, which is part of
every Linux kernel with traffic control and needs neither netfilter nor root: ``unshare -rn`` gives
all the rights that are needed, over namespaces that end with the run.
"""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from tests.chaos.processes import CommandError, end, run, spawn

if TYPE_CHECKING:
    from asyncio.subprocess import Process

__all__ = ["Loopback", "Namespaces", "Network"]

_PORT: Final = 30000
_DROPPED: Final = re.compile(r"dropped (\d+)")


class Network(Protocol):
    """How backends are reached."""

    drops_packets: bool

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def address(self, number: int) -> tuple[str, int]: ...

    def inside(self, number: int, *command: str) -> tuple[str, ...]: ...

    async def cut(self, number: int) -> None: ...

    async def join(self, number: int) -> int: ...


class Loopback:
    """Backends on ports of 127.0.0.1, which cannot be cut off."""

    drops_packets = False

    def __init__(self, count: int) -> None:
        self._count = count
        self._ports: list[int] = []

    async def open(self) -> None:
        """Choose ports that are free."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(self._count)]
        self._ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()

    async def close(self) -> None:
        """There is nothing to give back."""

    def address(self, number: int) -> tuple[str, int]:
        """Where a backend is to listen."""
        return "127.0.0.1", self._ports[number]

    def inside(self, number: int, *command: str) -> tuple[str, ...]:
        """The command that runs another where a backend is."""
        del number
        return command

    async def cut(self, number: int) -> None:
        """Raises: CommandError, in any case."""
        raise CommandError(f"backend {number} is on the loopback device")

    async def join(self, number: int) -> int:
        """Raises: CommandError, in any case."""
        raise CommandError(f"backend {number} is on the loopback device")


class Namespaces:
    """A network namespace for each backend; this process must be in one of its own."""

    drops_packets = True

    def __init__(self, count: int) -> None:
        self._count = count
        self._holders: list[Process] = []

    async def open(self) -> None:
        """Make the namespaces.

        Raises:
            CommandError: that cannot be done here.
        """
        await run("ip", "link", "set", "lo", "up")
        for number in range(self._count):
            # A process that does nothing keeps the namespace while its backend is dead.
            holder = await spawn("unshare", "-n", "sleep", "infinity")
            self._holders.append(holder)
            await _unshared(holder)
            await self._connect(number, holder.pid)

    async def _connect(self, number: int, pid: int) -> None:
        here, there = f"chaos{number}", "eth0"
        macs = (f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02")
        near, far = f"10.203.{number}.1", f"10.203.{number}.2"
        pair = (here, "address", macs[0], "type", "veth", "peer", "name", there, "address", macs[1])
        await run("ip", "link", "add", *pair, "netns", str(pid))
        await run("ip", "address", "add", f"{near}/30", "dev", here)
        await run("ip", "link", "set", here, "up")
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "address", "add", f"{far}/30", "dev", there),
            ("ip", "link", "set", there, "up"),
            # What ARP says is made known for good: a neighbour that does not answer it would be
            # reported as unreachable, which is not what a lost packet looks like.
            ("ip", "neighbour", "replace", near, "lladdr", macs[0], "dev", there),
        ):
            await run(*self.inside(number, *command))
        await run("ip", "neighbour", "replace", far, "lladdr", macs[1], "dev", here)

    async def close(self) -> None:
        """Give the namespaces back."""
        for holder in self._holders:
            await end(holder)

    def address(self, number: int) -> tuple[str, int]:
        """Where a backend is to listen."""
        return f"10.203.{number}.2", _PORT

    def inside(self, number: int, *command: str) -> tuple[str, ...]:
        """The command that runs another where a backend is."""
        return ("nsenter", "-t", str(self._holders[number].pid), "-n", *command)

    async def cut(self, number: int) -> None:
        """Drop every packet to and from a backend."""
        drop = ("tc", "qdisc", "add", "dev")
        await asyncio.gather(
            run(*drop, f"chaos{number}", "root", "blackhole"),
            run(*self.inside(number, *drop, "eth0", "root", "blackhole")),
        )

    async def join(self, number: int) -> int:
        """Drop no more.

        Returns:
            How many packets were dropped.
        """
        shown = await asyncio.gather(
            run("tc", "-s", "qdisc", "show", "dev", f"chaos{number}"),
            run(*self.inside(number, "tc", "-s", "qdisc", "show", "dev", "eth0")),
        )
        remove = ("tc", "qdisc", "delete", "dev")
        await asyncio.gather(
            run(*remove, f"chaos{number}", "root"),
            run(*self.inside(number, *remove, "eth0", "root")),
        )
        return sum(int(match) for text in shown for match in _DROPPED.findall(text))


async def _unshared(holder: Process) -> None:
    """Wait until a process is in a namespace of its own."""

    def namespace(pid: int | str) -> Path:
        return Path(f"/proc/{pid}/ns/net").readlink()

    while namespace(holder.pid) == namespace("self"):
        if holder.returncode is not None:
            raise CommandError("unshare -n: no network namespace is to be had")
        await asyncio.sleep(0.01)
