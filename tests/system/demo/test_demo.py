"""``make run`` comes up, survives what it invites people to do, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).parents[3] / "etc" / "demo.py"
UP_SECONDS = 60
UP = "Ctrl-C stops everything."


class Demo:
    """The demonstration, and what it has said so far."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._log = log
        self.process = process

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while text not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    @property
    def url(self) -> str:
        found = re.search(r"ollad +(http://127\.0\.0\.1:\d+)", self.said)
        assert found
        return found[1]

    @property
    def programs(self) -> set[int]:
        """The processes that it has started and that still run."""
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except FileNotFoundError:
            return set()
        return {int(child) for child in children.split()}

    def killable(self) -> int:
        """The process that it says one may kill."""
        found = re.search(r"kill (\d+)", self.said)
        assert found
        return int(found[1])


@contextmanager
def demonstration(tmp_path: Path) -> Iterator[Demo]:
    log = tmp_path / "said"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(DEMO)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
    try:
        yield Demo(log, process)
    finally:
        process.terminate()
        process.wait()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_shows_a_chat_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with demonstration(tmp_path) as demo:
        demo.wait_for(UP)
        assert re.search(r"first token after \d", demo.said)
        assert re.search(r"endpoint +sim-", demo.said)
        with urllib.request.urlopen(f"{demo.url}/olla/sglang/health") as reply:
            assert reply.status == 200
        programs = demo.programs
        assert len(programs) == 3
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(30) == 0
        assert all(gone(pid) for pid in programs)
        assert [path.name for path in tmp_path.iterdir()] == ["said"]


def test_a_server_that_is_killed_comes_back(tmp_path: Path) -> None:
    with demonstration(tmp_path) as demo:
        demo.wait_for(UP)
        os.kill(demo.killable(), signal.SIGTERM)
        demo.wait_for("is dead")
        with urllib.request.urlopen(f"{demo.url}/internal/ready") as reply:
            assert reply.status == 200
        demo.wait_for("is back as process")
        assert len(demo.programs) == 3


def test_it_can_be_stopped_while_it_comes_up(tmp_path: Path) -> None:
    with demonstration(tmp_path) as demo:
        demo.wait_for("sim-slow")
        programs = demo.programs
        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.wait(30) == 0
        assert all(gone(pid) for pid in programs)
        assert UP not in demo.said


def test_it_ends_with_the_last_words_of_an_ollad_that_ends(tmp_path: Path) -> None:
    with demonstration(tmp_path) as demo:
        demo.wait_for(UP)
        programs = demo.programs
        (ollad,) = [
            pid for pid in programs if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(ollad, signal.SIGKILL)
        assert demo.process.wait(30) == 1
        assert "ollad ended with -9" in demo.said
        assert all(gone(pid) for pid in programs)
