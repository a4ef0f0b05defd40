"""Simulated backends as processes, and all that can be done to them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from tests.chaos.processes import end, spawn
from tests.chaos.prompts import MODEL, SEED
from tests.chaos.records import Trouble, Window

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.chaos.network import Network

__all__ = ["Backend"]

_DRAIN_SECONDS: Final = 10.0
_START_SECONDS: Final = 30.0
_OPTIONS: Final = (
    *("--model", MODEL, "--seed", str(SEED), "--health-seconds", "0.2"),
    *("--max-running-requests", "512", "--prefill-rate", "60000", "--tokens-per-second", "50"),
)
_ORDERED: Final = frozenset(
    {
        Trouble.UNAVAILABLE,
        Trouble.BUSY,
        Trouble.STALL,
        Trouble.GARBAGE,
        Trouble.RESET,
        Trouble.TRUNCATE,
    }
)
"""Troubles that the simulator makes by itself when it is told to."""


class Backend:
    """One backend, over all its deaths.

    Attributes:
        name: what the daemon calls it.
        log: its request log.
        windows: its troubles so far.
    """

    def __init__(self, number: int, name: str, network: Network, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.jsonl"
        self.windows: list[Window] = []
        self._number = number
        self._network = network
        self._errors = folder / f"{name}.log"
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    @property
    def url(self) -> str:
        """Its base URL."""
        host, port = self._network.address(self._number)
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            RuntimeError: it does not.
        """
        host, port = self._network.address(self._number)
        command = (sys.executable, "-m", "ollad", "simulate", "--host", host, "--port", str(port))
        log = ("--log-requests", str(self.log))
        with self._errors.open("ab") as errors:
            self._process = await spawn(
                *self._network.inside(self._number, *command, *_OPTIONS, *log),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(_START_SECONDS):
            line = await self._process.stdout.readline()
        if b"listening" not in line:
            raise RuntimeError(f"{self.name} does not start: {self._errors.read_text()}")

    async def close(self) -> None:
        """End it."""
        if self._process is not None:
            await end(self._process)

    @asynccontextmanager
    async def _in_trouble(self, trouble: Trouble) -> AsyncIterator[list[str]]:
        """Write down when a trouble lasts, whatever becomes of it; notes can be added."""
        notes: list[str] = []
        async with self._turn:
            begin = time.time()
            try:
                yield notes
            finally:
                window = Window(self.name, trouble, begin, time.time(), "; ".join(notes))
                self.windows.append(window)

    async def suffer(self, trouble: Trouble, seconds: float, rate: float) -> None:
        """Be in a trouble for some time, and then as good as new.

        Args:
            trouble: any but ``REMOVE``, which is the daemon's.
            seconds: how long.
            rate: share of requests it is done to.
        """
        async with self._in_trouble(trouble) as notes:
            match trouble:
                case Trouble.KILL:
                    await self.close()
                    await asyncio.sleep(seconds)
                    await self.start()
                case Trouble.RESTART:
                    await self._end_kindly(notes)
                    await asyncio.sleep(seconds)
                    await self.start()
                case Trouble.STOP:
                    self._signal(signal.SIGSTOP)
                    await asyncio.sleep(seconds)
                    self._signal(signal.SIGCONT)
                case Trouble.BLACK_HOLE:
                    await self._network.cut(self._number)
                    await asyncio.sleep(seconds)
                    notes.append(f"{await self._network.join(self._number)} packets dropped")
                case _ if trouble in _ORDERED:
                    await self._order(trouble.value, rate)
                    await asyncio.sleep(seconds)
                    await self._order(trouble.value, 0)
                    notes.append(f"{rate:.0%} of requests")
                case _:
                    raise ValueError(f"no backend can suffer this: {trouble}")

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _end_kindly(self, notes: list[str]) -> None:
        """SIGTERM: it finishes what it serves."""
        assert self._process is not None
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _DRAIN_SECONDS)
        except TimeoutError:
            notes.append(f"killed after {_DRAIN_SECONDS:g} s")
            await self.close()

    async def _order(self, mode: str, rate: float) -> None:
        """Tell the simulator to fail, or no longer."""
        body = json.dumps({"mode": mode, "rate": rate}).encode()
        reader, writer = await asyncio.open_connection(*self._network.address(self._number))
        writer.write(
            b"PUT /simulator/faults HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        reply = await reader.read()
        writer.close()
        if not reply.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{self.name} does not obey: {reply!r}")
