"""Requests by the real curl, and what came back."""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Reply", "curl", "post", "run"]

SECONDS = 120


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; the test fails with the body if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"{self.status}, not JSON: {self.body[:2000]!r}") from None

    def events(self) -> list[bytes]:
        """The payloads of a stream's ``data:`` lines."""
        lines = self.body.split(b"\n")
        return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]


def run(command: str) -> Reply:
    """Run a curl command line as a shell would."""
    joined = command.replace("\\\n", " ")  # shlex does not know continued lines
    return curl(*shlex.split(joined)[1:])


def post(url: str, body: Any, *more: str) -> Reply:
    """POST JSON."""
    return curl(url, "-H", "Content-Type: application/json", "-d", json.dumps(body), *more)


def curl(*arguments: str) -> Reply:
    """Run curl and read what it got."""
    with tempfile.TemporaryDirectory() as folder:
        head, body = Path(folder, "head"), Path(folder, "body")
        body.touch()
        done = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--no-buffer"),
                *("--max-time", str(SECONDS), "--dump-header", str(head), "--output", str(body)),
                *arguments,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"curl {arguments}: {done.stderr}"
        status, headers = _parse(head.read_bytes().decode("latin-1"))
        return Reply(status, headers, body.read_bytes())


def _parse(dump: str) -> tuple[int, dict[str, str]]:
    final = dump.strip().split("\r\n\r\n")[-1]  # an interim 100 Continue stands before it
    status_line, *lines = final.split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(status_line.split()[1]), {name.lower(): value.strip() for name, _, value in fields}
