"""Real SGLang servers for the tests, started and ended with the scripts in ``sglang_cpu/``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.ports import free_ports

__all__ = [
    "SCRIPTS",
    "RigUnavailableError",
    "Server",
    "client_environment",
    "kill",
    "python",
    "set_up",
    "start",
    "start_all",
    "stop",
]

SCRIPTS = Path(__file__).parent / "sglang_cpu"
NOT_TO_BE_HAD = 77
"""Exit code of the scripts where Python 3.11 or the CPU build of torch is missing."""
SET_UP_SECONDS = 1800
START_SECONDS = 600


class RigUnavailableError(Exception):
    """This machine cannot run SGLang on the CPU; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Server:
    """An SGLang server.

    Attributes:
        name: what ollad is told to call it.
        url: base URL.
        run: folder with its log and pid; None for a server that somebody else started.
    """

    name: str
    url: str
    run: Path | None = None

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return int(self.url.rpartition(":")[2])


def folder() -> Path:
    """Where the scripts keep the virtual environment and the model."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("REALSGL_DIR") or cache / "sglang-cpu")


def python() -> Path:
    """The interpreter that SGLang is installed for."""
    return folder() / "venv/bin/python"


def client_environment() -> dict[str, str]:
    """The environment in which ``import sglang`` works on a machine without a GPU."""
    return {
        **os.environ,
        "PYTHONPATH": str(SCRIPTS / "shim"),
        "SGLANG_USE_CPU_ENGINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


def set_up() -> None:
    """Make the virtual environment and the model, unless they are there.

    Raises:
        RigUnavailableError: Python 3.11 or the CPU build of torch is not to be had.
    """
    _run([str(SCRIPTS / "setup.sh")], dict(os.environ), SET_UP_SECONDS)


def start(
    name: str, run: Path, *flags: str, model: str = "tiny-llama", port: int | None = None
) -> Server:
    """Start one server and wait until it is ready.

    Args:
        name: what ollad is to call it.
        run: folder for its log and pid.
        flags: more flags for SGLang.
        model: the name under which it serves the tiny model.
        port: where it listens; None for any port that is free.

    Raises:
        RigUnavailableError: see ``set_up``.
    """
    if port is None:
        (port,) = free_ports(1)
    server = Server(name, f"http://127.0.0.1:{port}", run)
    environment = {**os.environ, "REALSGL_RUN": str(run), "REALSGL_NAME": model}
    _run([str(SCRIPTS / "up.sh"), str(server.port), *flags], environment, START_SECONDS)
    return server


def start_all(names: tuple[str, ...], folder: Path) -> tuple[Server, ...]:
    """Start several servers of the same model at once."""
    set_up()
    with ThreadPoolExecutor(len(names)) as threads:
        jobs = [
            threads.submit(start, name, folder / name, port=port)
            for name, port in zip(names, free_ports(len(names)), strict=True)
        ]
    if not any(job.exception() for job in jobs):
        return tuple(job.result() for job in jobs)
    for job in jobs:
        if not job.exception():
            stop(job.result())
    return tuple(job.result() for job in jobs)


def stop(server: Server) -> None:
    """End a server that ``start`` started, if it still runs."""
    environment = {**os.environ, "REALSGL_RUN": str(server.run)}
    _run([str(SCRIPTS / "down.sh"), str(server.port)], environment, 60)


def kill(server: Server) -> None:
    """End a server as a crash would: every process of it at once, without warning.

    Returns once it is gone, and not while its dying processes still take connections.
    """
    assert server.run is not None
    os.killpg(int((server.run / "pid").read_text()), signal.SIGKILL)
    address = urlsplit(server.url)
    for _ in range(200):
        try:
            socket.create_connection((address.hostname, address.port), 1).close()
        except OSError:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server.name} outlives SIGKILL")


def _run(command: list[str], environment: dict[str, str], seconds: float) -> None:
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode == NOT_TO_BE_HAD:
        raise RigUnavailableError(done.stdout.strip().rpartition("\n")[2])
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}):\n{done.stdout}")
