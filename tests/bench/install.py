"""Builds and installs what a benchmark needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.bench.peers import Debian, PyPI
from tests.bench.places import HERE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.bench.peers import Checkout, Libraries, Peer
    from tests.bench.places import State

__all__ = ["NotInstalledError", "build", "install", "install_peers"]

MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct"
_SECONDS = 900
"""How long one installation may take."""
_COMPLETE = ".complete"


class NotInstalledError(Exception):
    """Something could not be installed; the message says why."""


def build(state: State) -> None:
    """Compile the backend and the load generator, and write the request bodies.

    Raises:
        NotInstalledError: if there is no C compiler, or it fails.
    """
    for folder in ("bodies", "run", "venvs"):
        (state.folder / folder).mkdir(parents=True, exist_ok=True)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NotInstalledError("no C compiler (Debian: apt-get install gcc libc6-dev)")
    for program in (state.backend, state.loadgen):
        source = HERE / f"{program.name}.c"
        _run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), "-lm"])
    state.body("plain").write_text(_body(1 << 10, stream=False))
    state.body("stream").write_text(_body(1 << 10, stream=True))
    state.body("big").write_text(_body(8 << 20, stream=False))


def install_peers(peers: Iterable[Peer], state: State) -> dict[str, str]:
    """Install what the peers come from; returns why some could not be, by the name of the peer."""
    missing = {}
    for peer in peers:
        try:
            install(peer.source, state)
        except NotInstalledError as reason:
            missing[peer.name] = str(reason)
    return missing


def install(source: Debian | PyPI | Libraries | Checkout, state: State) -> None:
    """Install a Debian package or a project of PyPI, unless it is there.

    Raises:
        NotInstalledError: if that fails.
    """
    if isinstance(source, Debian) and source.program() is None:
        _install_package(source.package)
    if isinstance(source, PyPI):
        _install_project(source, state.venv(source.project))


def _install_package(package: str) -> None:
    if shutil.which("apt-get") is None:
        raise NotInstalledError(f"no {package} on PATH, and no apt-get to install it")
    if os.geteuid() != 0:
        raise NotInstalledError(f"no {package} on PATH; as root: apt-get install {package}")
    _say(f"installing Debian's {package}")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package])


def _install_project(source: PyPI, venv: Path) -> None:
    if (venv / _COMPLETE).exists():
        return
    _say(f"installing {source.requirement} from PyPI")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    _run([str(venv / "bin/pip"), "install", "--quiet", source.requirement])
    (venv / _COMPLETE).touch()


def _run(command: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"`{' '.join(command)}` took over {_SECONDS} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        errors = [line for line in said if "error" in line.lower()] or said
        raise NotInstalledError(f"`{' '.join(command)}`: {errors[-1]}")


def _body(size: int, *, stream: bool) -> str:
    """A chat request of that many bytes."""

    def request(question: str) -> str:
        return json.dumps(
            {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": "You are a helpful AI assistant."},
                    {"role": "user", "content": question},
                ],
                "temperature": 0.7,
                "max_tokens": 300,
                **({"stream": True} if stream else {}),
            }
        )

    return request("x" * (size - len(request(""))))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
