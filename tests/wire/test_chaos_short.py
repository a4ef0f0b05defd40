"""``make chaos`` in short: a few seconds of everything that can go wrong with backends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 7
RATE = 60


async def chaos(folder: Path, **variables: str) -> tuple[int, str]:
    """One run; its exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos"),
        cwd=ROOT,
        env={
            **os.environ,
            "CHAOS_SECONDS": str(SECONDS),
            "CHAOS_RATE": str(RATE),
            "CHAOS_OUT": str(folder),
            **variables,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.timeout(150)
async def test_clients_lose_nothing_that_a_backend_could_have_served(tmp_path: Path) -> None:
    code, said = await chaos(tmp_path)
    if code == 2 and "no network namespaces" in said:
        code, said = await chaos(tmp_path, CHAOS_NAMESPACES="no")
    assert code == 0, said
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert set(counts["zeros"].values()) == {0}
    # it was chaos, and there was load
    assert len(counts["troubles"]) >= 5
    assert sum(counts["requests"].values()) > SECONDS * RATE
