"""One run: exit code 0 if every promise was kept, 1 if one was broken, 2 if none could be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

import uvloop

from tests.chaos.processes import CommandError
from tests.chaos.report import render
from tests.chaos.run import chaos
from tests.chaos.settings import Settings

_INSIDE: Final = "CHAOS_INSIDE"
_UNSHARE: Final = ("unshare", "--map-root-user", "--net")


def main() -> int:
    """Run, in a network namespace if one is to be had."""
    settings = Settings.of(os.environ)
    if settings.namespaces and _INSIDE not in os.environ:
        if reason := _no_namespaces():
            sys.stderr.write(
                f"chaos: no network namespaces: {reason}; without them no packets can be dropped. "
                "CHAOS_NAMESPACES=no runs the rest.\n"
            )
            return 2
        os.environ[_INSIDE] = "1"
        os.execvp(_UNSHARE[0], [*_UNSHARE, sys.executable, "-m", "tests.chaos"])  # noqa: S606
    try:
        facts = uvloop.run(chaos(settings))
    except CommandError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    page = render(facts)
    (settings.folder / "report.md").write_text(page)
    sys.stdout.write(f"\n{page}\nEverything on record: {settings.folder}\n")
    return 0 if facts.kept else 1


def _no_namespaces() -> str:
    """Why there are none; empty if there are."""
    missing = [name for name in ("unshare", "nsenter", "ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: util-linux, iproute2)"
    done = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
