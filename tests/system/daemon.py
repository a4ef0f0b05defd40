"""ollad as a subprocess, with a configuration file of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.system.rig import Server

__all__ = ["Ollad", "endpoint", "running_ollad", "wait_until_answered"]

READY_SECONDS = 60
STOP_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Ollad:
    """A running ollad.

    Attributes:
        url: its base URL.
        config: its configuration file.
        log: where it logs to.
    """

    url: str
    config: Path
    log: Path

    @property
    def api(self) -> str:
        """The base URL of the SGLang API."""
        return f"{self.url}/olla/sglang"


def endpoint(server: Server, **more: Any) -> dict[str, Any]:
    """The configuration of one backend."""
    return {
        "url": server.url,
        "name": server.name,
        "type": "sglang",
        "check_interval": "2s",
        **more,
    }


@contextmanager
def running_ollad(
    endpoints: Sequence[dict[str, Any]],
    folder: Path,
    *,
    answers: str = "/internal/ready",
    **sections: Any,
) -> Iterator[Ollad]:
    """Run ``ollad serve`` until it is no longer needed, then have it stop and judge how it did.

    Args:
        endpoints: its backends.
        folder: where its configuration and its log go.
        answers: what answers 200 when the block may begin.
        sections: further top-level sections of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    config = {"server": {"host": "127.0.0.1", "port": port}, "endpoints": [*endpoints], **sections}
    ollad = Ollad(f"http://127.0.0.1:{port}", folder / "ollad.yaml", folder / "ollad.log")
    ollad.config.write_text(yaml.safe_dump(config, sort_keys=False))
    with ollad.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ollad", "serve", "--config", str(ollad.config)],
            cwd=os.environ.get("OLLAD_TREE"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_answered(f"{ollad.url}{answers}", process, ollad.log, READY_SECONDS)
        yield ollad
        assert process.poll() is None, f"ollad ended by itself:\n{tail(ollad.log)}"
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
        assert code == 0, f"exit code {code} after SIGTERM:\n{tail(ollad.log)}"
        assert "Traceback" not in ollad.log.read_text(), tail(ollad.log, 8000)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def wait_until_answered(
    url: str, process: subprocess.Popen[bytes], log: Path, seconds: float
) -> None:
    """Wait until a URL answers 200, or fail with the end of the log of who should answer it."""
    deadline = time.monotonic() + seconds
    answer = "nothing"
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}:\n{tail(log)}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            with error:
                answer = f"{error.code} {error.read(1000)!r}"
        except OSError as error:
            answer = str(error)
        time.sleep(0.1)
    raise AssertionError(f"{url} is not answered 200 in {seconds} s, but {answer}:\n{tail(log)}")


def tail(log: Path, characters: int = 4000) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-characters:]
