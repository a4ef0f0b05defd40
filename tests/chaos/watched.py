"""``ollad`` as it is shipped, and on SIGUSR1 a census of what the process holds.

``python -m tests.chaos.watched FILE serve …``: what follows FILE is ollad's own command line. The
census goes to FILE as JSON, written whole or not at all.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from ollad.cli import main


def census() -> dict[str, object]:
    """Count tasks, descriptors, blocks of memory and resident bytes, with the garbage gone."""
    for _ in range(3):
        gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back to the system what is free
    int(Path("/proc/self/statm").read_text().split()[1])
    tasks = [task.get_name().rstrip("0123456789") for task in asyncio.all_tasks()]
    return {
        "tasks": len(tasks),
        "names": dict(Counter(tasks)),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - counted, not opened
        "blocks": sys.getallocatedblocks(),
        "resident": int(Path("/proc/self/statm").read_text().split()[1])
        * os.sysconf("SC_PAGESIZE"),
    }


def answer(file: Path) -> None:
    """Write a census."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(census()))
    part.rename(file)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: answer(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
