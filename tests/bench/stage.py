"""Two backends and a proxy between them and the load, started for one measurement."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.measure import processes_of
from tests.bench.peers import Place
from tests.bench.places import Ports
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.bench.peers import Peer
    from tests.bench.places import State

__all__ = ["FailedError", "Stage", "get", "stage"]

START_SECONDS = 60
STOP_SECONDS = 5
_SETTLE_SECONDS = 15
_WARM_UP = 40
"""Requests that are sent at most until both backends got one; routers that know the radix cache
send equal prompts to the same one."""


class FailedError(Exception):
    """A measurement came to nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Programs that run.

    Attributes:
        first_reply: seconds from the start of the proxy to its first successful reply.
    """

    state: State
    peer: Peer
    ports: Ports
    proxy: subprocess.Popen[bytes]
    backends: tuple[subprocess.Popen[bytes], ...]
    first_reply: float

    @property
    def proxy_pids(self) -> tuple[int, ...]:
        """All processes of the proxy."""
        return processes_of(self.proxy.pid)

    @property
    def backend_pids(self) -> tuple[int, ...]:
        """Both backends."""
        return tuple(backend.pid for backend in self.backends)

    def backend_figures(self, key: str) -> int:
        """The sum of a figure of the backends: replies (``plain``) or streams under way."""
        return sum(_figures(port)[key] for port in self.ports.backends)


@contextmanager
def stage(peer: Peer, state: State, events: int, pause: int) -> Iterator[Stage]:
    """Start everything, wait until the proxy answers, and stop everything in the end.

    Args:
        events: how many events a stream of the backends has.
        pause: between two of them, in microseconds.

    Raises:
        FailedError: if something does not start.
    """
    folder = state.run(peer.name)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        options = ["-n", str(events), "-d", str(pause)]
        log = folder / "backends.log"
        first, first_port = stack.enter_context(_backend(state, options, log))
        second, second_port = stack.enter_context(_backend(state, options, log))
        port, metrics = free_ports(2)
        ports = Ports(port, metrics, (first_port, second_port))
        place = Place(state, ports, folder)
        command = peer.command(place)
        log = folder / "proxy.log"
        begun = time.monotonic()
        proxy = stack.enter_context(_running(command, log, peer.folder, peer.environment))
        _await_reply(peer, ports, proxy, log, state)
        took = time.monotonic() - begun
        ready = Stage(state, peer, ports, proxy, (first, second), took)
        _settle(ready)
        yield ready


@contextmanager
def _running(
    command: list[str], log: Path, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A proxy in a session of its own."""
    usual = {name: v for name, v in os.environ.items() if not name.lower().endswith("_proxy")}
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**usual, **environment},
                start_new_session=True,
            )
        except OSError as error:
            raise FailedError(f"does not start: {error}") from error
    try:
        yield process
    finally:
        _stop(process)


@contextmanager
def _backend(
    state: State, options: list[str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A backend and the free port that it took."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [state.backend, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise FailedError(f"the backend ended with {process.wait()}")
        yield process, int(port)
    finally:
        _stop(process)
        assert process.stdout is not None
        process.stdout.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a program with all of its session, politely first."""
    session = process.pid
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while processes_of(session) and time.monotonic() < deadline:
        process.poll()
        time.sleep(0.02)
    for pid in processes_of(session):
        _kill(pid)
    process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _await_reply(
    peer: Peer, ports: Ports, proxy: subprocess.Popen[bytes], log: Path, state: State
) -> None:
    body = state.body("plain").read_bytes()
    deadline = time.monotonic() + START_SECONDS
    answer = "no connection"
    while time.monotonic() < deadline:
        if proxy.poll() is not None:
            raise FailedError(f"ended with {proxy.returncode}: {_last_line(log)}")
        try:
            status, reply = _ask(ports.proxy, "POST", peer.path, body)
        except (OSError, http.client.HTTPException) as error:
            answer = str(error)
        else:
            if status == 200:
                return
            answer = f"{status} {reply[:200]!r}"
        time.sleep(0.005)
    raise FailedError(f"no success within {START_SECONDS} s, but {answer}; {_last_line(log)}")


def _settle(ready: Stage) -> None:
    """Go on until the proxy uses both backends, as far as it can be made to."""
    body = ready.state.body("plain").read_bytes()
    for _ in range(_WARM_UP):
        if all(_figures(port)["plain"] for port in ready.ports.backends):
            break
        _ask(ready.ports.proxy, "POST", ready.peer.path, body)
    if ready.peer.status is None:
        return
    deadline = time.monotonic() + _SETTLE_SECONDS
    while complaint := ready.peer.complaint(get(ready.ports.proxy, ready.peer.status)):
        if time.monotonic() > deadline:
            raise FailedError(complaint)
        time.sleep(0.1)


def get(port: int, path: str) -> bytes:
    """The body of a page on 127.0.0.1.

    Raises:
        FailedError: if it is no success.
    """
    status, body = _ask(port, "GET", path)
    if status != 200:
        raise FailedError(f"GET {path}: {status} {body[:200]!r}")
    return body


def _figures(port: int) -> dict[str, int]:
    figures: dict[str, int] = json.loads(get(port, "/stats"))
    return figures


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "its log is empty"
