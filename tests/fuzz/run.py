"""Fuzz one target after the other: ``python -m tests.fuzz.run [--minutes N] [TARGET…]``.

Inputs are mutated and kept by the coverage they reach (atheris, which is libFuzzer for Python).
What new inputs reach new code is kept below ``build/fuzz``; an input that finds a mistake is
written there too, and belongs into ``tests/fuzz/corpus`` once the mistake is gone.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

# not among what development needs: make fuzz installs it
atheris = importlib.import_module("atheris")

with atheris.instrument_imports(include=["ollad", "aiohttp"]):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("build/fuzz")


def main() -> int:
    """Run what the command line names; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(description="Fuzz ollad.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--here", action="store_true", help="fuzz the one target in this process")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"unknown: {unknown}")
    if options.here:
        fuzz(names[0], options.minutes)
    failed = []
    for name in names:
        print(f"=== {name}", flush=True)
        command = (sys.executable, "-m", "tests.fuzz.run", "--here")
        done = subprocess.run([*command, f"--minutes={options.minutes}", name], check=False)
        if done.returncode:
            failed.append(name)
    print(f"mistakes found by: {', '.join(failed) or 'no target'}; inputs are in {FOUND}")
    return int(bool(failed))


def fuzz(name: str, minutes: float) -> None:
    """Fuzz ``name``; ends the process."""
    grown = FOUND / name
    grown.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={round(minutes * 60)}",
        f"-artifact_prefix={FOUND}/{name}-",
        "-max_len=4096",
        "-timeout=30",
        "-print_final_stats=1",
        "-verbosity=1",
        "-report_slow_units=5",
    ]
    with TARGETS[name]() as check:
        atheris.Setup([sys.argv[0], *arguments, str(grown), str(CORPUS / name)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
