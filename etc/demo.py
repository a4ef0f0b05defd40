# ruff: noqa: INP001 - a program, no package
"""Try ollad without a GPU: two simulated SGLang servers, ollad in front, one streamed chat.

What ``make run`` runs. It stays up until Ctrl-C, and leaves nothing behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

USUAL_PORT = 40114
MODEL = "simulated-llama"
PROMPT = "Why is the sky blue?"
START_SECONDS = 60
STOP_SECONDS = 5
RETURN_SECONDS = 10
"""How long a simulator that was killed stays away."""

CONFIG = """\
# The configuration of `make run`: what it leaves out has its default.
server:
  port: {port}
  shutdown_timeout: 2s
endpoints:
  - {{name: {fast.name}, url: "{fast.url}", check_interval: 1s, check_timeout: 500ms}}
  - {{name: {slow.name}, url: "{slow.url}", check_interval: 1s, check_timeout: 500ms}}
"""

TRY = """\
It works. Now try, in another terminal:

  a chat, streamed        curl -N {url}/olla/sglang/v1/chat/completions \\
                            -H 'Content-Type: application/json' \\
                            -d '{{"model": "{model}", "stream": true,
                                 "messages": [{{"role": "user", "content": "Hello"}}]}}'
  the same, with figures  {ollad} probe{option} 'Hello'
                          (say it again: its prompt is in the radix cache then)
  watch the backends      {ollad} top{option}
  health, models          curl {url}/olla/sglang/health
                          curl {url}/olla/sglang/v1/models
  for Prometheus          curl {url}/metrics
                          curl {url}/olla/sglang/metrics
  let a server die        kill {pid}
                          (ask again: the other one answers; it is back in {back} seconds)
  change something        edit {config}
                          {ollad} reload --control {control}

OpenAI's clients work with base_url="{url}/olla/sglang/v1".
Ctrl-C stops everything.
"""


class DemoError(Exception):
    """Something did not come up, or ended by itself."""


class Stopped(Exception):  # noqa: N818 - no error
    """Somebody wants the demonstration to end."""


@dataclass(frozen=True, slots=True)
class Simulator:
    """A simulated backend.

    Attributes:
        name: what ollad calls it.
        port: where it listens.
        tokens_per_second: how fast it generates for one request.
    """

    name: str
    port: int
    tokens_per_second: int

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Its command line, after ``ollad``."""
        return (
            *("simulate", "--port", str(self.port), "--model", MODEL),
            *("--tokens-per-second", str(self.tokens_per_second)),
        )


class Programs:
    """The programs of the demonstration; leaving the context stops them, the last one first.

    Each has a session of its own, so that a terminal's Ctrl-C reaches only this program, which
    then stops them in order. Signals set a flag and interrupt nothing: no program can slip away
    between its start and its being known.

    Args:
        folder: where their output goes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running.values()):
            _end(process)

    def start(self, name: str, *arguments: str) -> None:
        """Start ollad with ``arguments``; the output goes to a file."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own program
                (sys.executable, "-m", "ollad", *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RUNTIME_DIRECTORY": str(self._folder)},
                start_new_session=True,
            )

    def show(self, *arguments: str) -> None:
        """Run ollad with ``arguments`` in the foreground, until it ends well.

        Raises:
            DemoError: it did not.
            Stopped: it was to be stopped.
        """
        process = self._running["shown"] = subprocess.Popen(  # noqa: S603 - our own program
            (sys.executable, "-m", "ollad", *arguments),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None:
            self.pause(0.1)
        if process.returncode:
            raise DemoError(f"ollad {arguments[0]} ended with {process.returncode}")

    def pid(self, name: str) -> int:
        """The process of a program."""
        return self._running[name].pid

    def ended(self, name: str) -> bool:
        """Whether a program has ended."""
        return self._running[name].poll() is not None

    def check(self, name: str) -> None:
        """Make sure that a program runs.

        Raises:
            DemoError: it has ended; the message has its last words.
        """
        if self.ended(name):
            words = (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]
            raise DemoError(f"{name} ended with {self._running[name].returncode}:\n{words}")

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: a signal asked for the end.
        """
        if self._stop.wait(seconds):
            raise Stopped

    def wait_for(self, name: str, url: str) -> None:
        """Wait until a program answers 200 at ``url``.

        Raises:
            DemoError: it ended, or takes too long.
            Stopped: a signal asked for the end.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.check(name)
            try:
                with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - of our own making
                    return
            except OSError:
                self.pause(0.1)
        raise DemoError(f"{name} does not answer at {url}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def say(text: str = "") -> None:
    """Tell the person."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def free_port(wanted: int = 0) -> int:
    """A port that nobody listens on: ``wanted``, if it is one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError("no free port")


def program_name() -> str:
    """How a person calls the ollad of this virtual environment."""
    program = Path(sys.executable).with_name("ollad")
    here = Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)


def demonstrate(programs: Programs, folder: Path) -> None:
    """Start everything, show one chat, and stay up.

    Raises:
        DemoError: something did not work.
        Stopped: a signal asked for the end.
    """
    fast = Simulator("sim-fast", free_port(), 80)
    slow = Simulator("sim-slow", free_port(), 30)
    port = free_port(USUAL_PORT)
    url = f"http://127.0.0.1:{port}"
    config = folder / "ollad.yaml"
    config.write_text(CONFIG.format(port=port, fast=fast, slow=slow))

    say("Two simulated SGLang servers (no GPU, no model: they talk word salad), ollad in front:\n")
    for simulator in (fast, slow):
        say(f"  {simulator.name}  {simulator.url}   {simulator.tokens_per_second} tokens/s")
        programs.start(simulator.name, *simulator.arguments)
    for simulator in (fast, slow):
        programs.wait_for(simulator.name, f"{simulator.url}/v1/models")
    taken = "" if port == USUAL_PORT else f"   ({USUAL_PORT} is taken)"
    say(f"  ollad     {url}{taken}\n")
    programs.start("ollad", "serve", "--config", str(config))
    programs.wait_for("ollad", f"{url}/internal/ready")

    ollad = program_name()
    option = "" if port == USUAL_PORT else f" --url {url}"
    say(f"$ {ollad} probe{option} '{PROMPT}'")
    programs.show("probe", "--url", url, PROMPT)
    say()
    say(
        TRY.format(
            url=url,
            option=option,
            model=MODEL,
            ollad=ollad,
            pid=programs.pid(fast.name),
            back=RETURN_SECONDS,
            config=config,
            control=folder / "control.sock",
        )
    )
    stay_up(programs, (fast, slow))


def stay_up(programs: Programs, simulators: Sequence[Simulator]) -> None:
    """Wait for the end; simulators that are killed come back after a while.

    Raises:
        DemoError: ollad ended.
        Stopped: a signal asked for the end.
    """
    returns: dict[str, float] = {}
    while True:
        programs.pause(0.2)
        programs.check("ollad")
        for simulator in simulators:
            name = simulator.name
            if not programs.ended(name):
                continue
            if name not in returns:
                returns[name] = time.monotonic() + RETURN_SECONDS
                say(f"{name} is dead; it returns in {RETURN_SECONDS} seconds.")
            elif time.monotonic() >= returns[name]:
                del returns[name]
                programs.start(name, *simulator.arguments)
                say(f"{name} is back as process {programs.pid(name)}.")


def main() -> int:
    """Demonstrate; 0 if it was stopped, 1 if it failed."""
    with tempfile.TemporaryDirectory(prefix="ollad-demo-") as name:
        folder = Path(name)
        with Programs(folder) as programs:
            try:
                demonstrate(programs, folder)
            except Stopped:
                say("\nStopping.")
            except DemoError as error:
                sys.stderr.write(f"make run: {error}\n")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
