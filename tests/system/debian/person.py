"""What a person does who has just heard of ollad; runs on a bare Debian, with its own Python.

``person.py REPOSITORY`` clones it, calls ``make run``, waits until that has shown a chat and says
what to try, presses Ctrl-C, then calls ``make test``. Says how long each took.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

CLONE = Path.home() / "ollad"
RUN_SECONDS = 180
TEST_SECONDS = 420
STOP_SECONDS = 20
UP = b"Ctrl-C stops everything."
CTRL_C = b"\x03"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def processes() -> set[str]:
    """All processes of this machine, by number and name."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(f"{entry.name} {(entry / 'comm').read_text().strip()}")
            except OSError:  # it has just ended
                continue
    return found


def read_until(terminal: int, end: bytes, seconds: float) -> bytes:
    """What the terminal shows, up to ``end``, the end of the program or of the time."""
    seen = b""
    deadline = time.monotonic() + seconds
    while end not in seen or not end:
        if not select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux tells that nobody has the terminal open any more
            break
        seen += data
        os.write(1, data)
    return seen


def try_it() -> bool:
    """``make run`` in a terminal, until Ctrl-C."""
    before = processes()
    begin = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("make", ["make", "-C", str(CLONE), "run"])  # noqa: S606 - no shell wanted
    seen = read_until(terminal, UP, RUN_SECONDS)
    if UP not in seen:
        say("FAIL make run does not say that it is up")
        os.kill(pid, signal.SIGTERM)
    else:
        say(f"\nmake run: up, and a chat shown, after {time.monotonic() - begin:.0f} s")
        os.write(terminal, CTRL_C)
    read_until(terminal, b"", STOP_SECONDS)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = processes() - before
    # make ends itself with the signal, once all that it started has ended
    well = code in {0, -signal.SIGINT} and not left
    if not well:
        say(f"FAIL after Ctrl-C: exit code {code}, processes left: {left or 'none'}")
    return UP in seen and well


def run_tests() -> bool:
    """``make test``."""
    begin = time.monotonic()
    done = subprocess.run(["make", "-C", str(CLONE), "test"], timeout=TEST_SECONDS, check=False)
    if done.returncode:
        say(f"FAIL make test: exit code {done.returncode}")
        return False
    say(f"\nmake test: passed after {time.monotonic() - begin:.0f} s")
    return True


def main(repository: str) -> int:
    subprocess.run(["git", "clone", "--quiet", repository, str(CLONE)], check=True)
    return 0 if try_it() and run_tests() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
