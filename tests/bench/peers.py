"""The proxies that are compared: how each is installed, started and addressed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING

from tests.bench.places import HERE, TREE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.bench.places import Ports, State

__all__ = ["OLLAD", "PEERS", "Checkout", "Debian", "Libraries", "Peer", "Place", "PyPI", "ollad_of"]

_OLLA = "/olla/sglang/v1/chat/completions"
_OPENAI = "/v1/chat/completions"
OLLAD = "ollad"


@dataclass(frozen=True, slots=True)
class Debian:
    """A program of a Debian package of the same name."""

    package: str

    def program(self) -> str | None:
        """Where it is; None if it is not installed."""
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        return shutil.which(self.package, path=path)

    def version(self, _state: State) -> str:
        """What the program says."""
        said = subprocess.run(
            [self.program() or self.package, "-v"], capture_output=True, text=True, check=True
        )
        line = (said.stdout or said.stderr).splitlines()[0]
        return line.rpartition("version")[2].strip(": ").removeprefix("nginx/").split()[0]


@dataclass(frozen=True, slots=True)
class PyPI:
    """A project of PyPI, in a virtual environment of its own.

    Attributes:
        project: its name, and that of the environment.
        extra: the extra it is installed with.
    """

    project: str
    extra: str = ""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.project}[{self.extra}]" if self.extra else self.project

    def version(self, state: State) -> str:
        """What is installed."""
        ask = f"import importlib.metadata as m; print(m.version({self.project!r}))"
        python = state.venv(self.project) / "bin/python"
        return subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        ).stdout.strip()


@dataclass(frozen=True, slots=True)
class Libraries:
    """A script here, on libraries that ollad uses, too, and in the same versions."""

    projects: tuple[str, ...]

    def version(self, _state: State) -> str:
        """What is installed."""
        return ", ".join(f"{project} {metadata.version(project)}" for project in self.projects)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout of this project; runs on the Python that runs the benchmark.

    Attributes:
        tree: the checkout.
    """

    tree: Path = TREE

    def version(self, _state: State) -> str:
        """The commit."""
        asked = subprocess.run(
            ["git", "-C", self.tree, "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.strip() or "not a git checkout"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and between which ports one run of a peer happens.

    Attributes:
        folder: its configuration and its log.
    """

    state: State
    ports: Ports
    folder: Path

    def configuration(self, template: str) -> Path:
        """A configuration made of a template in ``conf/``."""
        values = {
            "PORT": str(self.ports.proxy),
            "FIRST": str(self.ports.backends[0]),
            "SECOND": str(self.ports.backends[1]),
            "RUN": str(self.folder),
        }
        text = (HERE / "conf" / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        made = self.folder / template
        made.write_text(text)
        return made


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy to measure.

    Attributes:
        name: what the tables call it.
        what: what it is, and how it is set up, for the reader of the tables.
        source: where it comes from.
        path: where it takes chat completions.
        command: how it is started.
        environment: what it needs besides the usual.
        folder: where it is started.
        status: where it says how it sees its backends.
        complaint: what is wrong according to that; an empty string if nothing.
    """

    name: str
    what: str
    source: Debian | PyPI | Libraries | Checkout
    path: str
    command: Callable[[Place], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = TREE
    status: str | None = None
    complaint: Callable[[bytes], str] = lambda _: ""


def ollad_of(name: str, tree: Path) -> Peer:
    """The ollad of a checkout, as ``make build`` left it there, if it did."""
    built = tree / "build/tree"
    compiled = (built / ".built").exists()
    how = "as `make install` installs it" if compiled else "from its text"

    def command(place: Place) -> list[str]:
        configuration = str(place.configuration("ollad.yaml"))
        return [sys.executable, "-m", "ollad", "serve", "--config", configuration]

    return Peer(
        name=name,
        what=f"`ollad serve` {how}, all defaults but no access log",
        source=Checkout(tree),
        path=_OLLA,
        command=command,
        # byte code is made once and kept, as that of an installed ollad is
        environment={
            "PYTHONPYCACHEPREFIX": str(tree / "build/bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
        },
        folder=built if compiled else tree,
        status="/internal/status",
        complaint=_unhealthy,
    )


def _unhealthy(status: bytes) -> str:
    """Which backends ollad's ``/internal/status`` does not call healthy."""
    endpoints = json.loads(status)["endpoints"]
    return ", ".join(f"{e['name']} is {e['state']}" for e in endpoints if e["state"] != "healthy")


def _nginx(place: Place) -> list[str]:
    program = Debian("nginx").program() or "nginx"
    errors = str(place.folder / "error.log")
    return [program, "-e", errors, "-c", str(place.configuration("nginx.conf"))]


def _haproxy(place: Place) -> list[str]:
    program = Debian("haproxy").program() or "haproxy"
    return [program, "-db", "-f", str(place.configuration("haproxy.cfg"))]


def _naive(place: Place) -> list[str]:
    return [sys.executable, str(HERE / "naive.py"), str(place.ports.proxy), *place.ports.urls]


def _router_options(place: Place, policy: str) -> list[str]:
    """What sglang-router takes, and vllm-router, which descends from it."""
    return [
        *("--worker-urls", *place.ports.urls),
        *("--policy", policy),
        *("--host", "127.0.0.1", "--port", str(place.ports.proxy)),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.ports.metrics)),
        *("--log-level", "error"),
    ]


def _sglang_router(policy: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        python = str(place.state.venv("sglang-router") / "bin/python")
        options = _router_options(place, policy)
        return [python, "-m", "sglang_router.launch_router", *options]

    return command


def _vllm_router(place: Place) -> list[str]:
    program = str(place.state.venv("vllm-router") / "bin/vllm-router")
    return [program, *_router_options(place, "round_robin")]


def _litellm(place: Place) -> list[str]:
    return [
        str(place.state.venv("litellm") / "bin/litellm"),
        *("--config", str(place.configuration("litellm.yaml"))),
        *("--host", "127.0.0.1", "--port", str(place.ports.proxy), "--num_workers", "1"),
    ]


_LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "HF_HUB_OFFLINE": "1",
}

PEERS = (
    ollad_of(OLLAD, TREE),
    Peer("nginx", "one worker, no buffering, keep-alive", Debian("nginx"), _OLLA, _nginx),
    Peer("haproxy", "one thread, no delay, keep-alive", Debian("haproxy"), _OLLA, _haproxy),
    Peer(
        "sglang-router",
        "SGLang's own, policy `cache_aware`",
        PyPI("sglang-router"),
        _OPENAI,
        _sglang_router("cache_aware"),
    ),
    Peer(
        "sglang-router-rr",
        "the same, policy `round_robin`",
        PyPI("sglang-router"),
        _OPENAI,
        _sglang_router("round_robin"),
    ),
    Peer(
        "vllm-router",
        "vLLM's own, policy `round_robin`",
        PyPI("vllm-router"),
        _OPENAI,
        _vllm_router,
    ),
    Peer(
        "naive",
        "the obvious proxy on aiohttp's server and client, and uvloop (`naive.py`)",
        Libraries(("aiohttp", "uvloop")),
        _OLLA,
        _naive,
    ),
    Peer(
        "litellm",
        "one worker, no database",
        PyPI("litellm", "proxy"),
        _OPENAI,
        _litellm,
        _LITELLM_ENVIRONMENT,
    ),
)
