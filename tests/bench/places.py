"""Where the benchmark keeps its things, and the ports its programs listen on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HERE", "TREE", "Ports", "State"]

HERE = Path(__file__).parent
TREE = HERE.parent.parent
"""The root of the project."""


@dataclass(frozen=True, slots=True)
class State:
    """The folder of everything that is built, installed and logged; it may be deleted any time."""

    folder: Path

    @classmethod
    def of_user(cls) -> State:
        """``${XDG_CACHE_HOME:-~/.cache}/ollad-bench``."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(cache / "ollad-bench")

    @property
    def backend(self) -> Path:
        """The program that stands in for SGLang."""
        return self.folder / "backend"

    @property
    def loadgen(self) -> Path:
        """The load generator."""
        return self.folder / "loadgen"

    def body(self, name: str) -> Path:
        """A request body: ``plain``, ``stream`` or ``big``."""
        return self.folder / "bodies" / f"{name}.json"

    def venv(self, name: str) -> Path:
        """The virtual environment of a peer."""
        return self.folder / "venvs" / name

    def run(self, peer: str) -> Path:
        """A peer's configuration and log."""
        return self.folder / "run" / peer


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on 127.0.0.1.

    Attributes:
        proxy: where the proxy takes requests.
        metrics: where it shows metrics, if on a port of their own.
        backends: where the two backends listen.
    """

    proxy: int
    metrics: int
    backends: tuple[int, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs of the backends."""
        return tuple(f"http://127.0.0.1:{port}" for port in self.backends)
