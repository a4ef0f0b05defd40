"""End to end: simulated servers as processes, a real proxy before them, a trace through all of it.

To be done in a minute, everything is smaller and faster: prompts, replies, caches and rates are
divided by ``SMALLER``, and the servers' clocks go ``FASTER``. What waits for what stays the same.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.bench.install import NotInstalledError, install
from tests.bench.peers import PyPI
from tests.bench.places import TREE, State
from tests.bench.routing.load import Load
from tests.bench.routing.processes import NotStartedError, announced, running
from tests.bench.routing.replay import replay
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.bench.routing.replay import Replayed
    from tests.bench.routing.server import ServerConfig

__all__ = ["FASTER", "PROXIES", "SECONDS", "SMALLER", "Proxy", "measure", "missing", "slice_of"]

FASTER: Final = 16.0
SMALLER: Final = 4
SECONDS: Final = 600.0
"""How much of the trace is replayed, by the servers' clocks."""

_MODEL: Final = "simulated-llama"
_START_SECONDS: Final = 60.0
_ROUTER: Final = PyPI("sglang-router")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a proxy runs.

    Attributes:
        servers: base URLs, and what stands behind them.
        port: where it is to listen.
        metrics: another port that is free.
        folder: for its files.
    """

    servers: Sequence[tuple[str, ServerConfig]]
    port: int
    metrics: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy to measure.

    Attributes:
        name: what the tables call it.
        what: what it is, and how it is set up.
        path: where it takes chat completions.
        command: how it is started.
        source: what is to be installed for it.
    """

    name: str
    what: str
    path: str
    command: Callable[[_Place], list[str]]
    source: PyPI | None = None


def _ollad(place: _Place) -> list[str]:
    endpoints = [
        {
            "url": url,
            "name": f"server-{n}",
            "priority": config.priority,
            "check_interval": "1s",
            "check_timeout": "1s",
        }
        for n, (url, config) in enumerate(place.servers)
    ]
    configuration = place.folder / "ollad.yaml"
    settings = {
        "server": {"port": place.port},
        "endpoints": endpoints,
        "logging": {"access": False},
    }
    configuration.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    return [sys.executable, "-m", "ollad", "serve", "--config", str(configuration)]


def _sglang_router(policy: str) -> Callable[[_Place], list[str]]:
    def command(place: _Place) -> list[str]:
        return [
            *(str(State.of_user().venv(_ROUTER.project) / "bin/python"), "-m"),
            *("sglang_router.launch_router", "--policy", policy),
            *("--worker-urls", *(url for url, _ in place.servers)),
            *("--host", "127.0.0.1", "--port", str(place.port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.metrics)),
            *("--log-level", "error"),
        ]

    return command


PROXIES: Final = (
    Proxy(
        "ollad",
        "`ollad serve`, all defaults but no access log, and servers probed each second",
        "/olla/sglang/v1/chat/completions",
        _ollad,
    ),
    Proxy(
        "sglang-router",
        "from PyPI, all defaults: policy `cache_aware`",
        "/v1/chat/completions",
        _sglang_router("cache_aware"),
        _ROUTER,
    ),
    Proxy(
        "sglang-router-rr",
        "the same, policy `round_robin`",
        "/v1/chat/completions",
        _sglang_router("round_robin"),
        _ROUTER,
    ),
)


def missing(proxies: Sequence[Proxy]) -> dict[str, str]:
    """Install what the proxies come from; returns why some could not be, by name."""
    state = State.of_user()
    (state.folder / "venvs").mkdir(parents=True, exist_ok=True)
    found = {}
    for proxy in proxies:
        try:
            if proxy.source is not None:
                install(proxy.source, state)
        except NotInstalledError as reason:
            found[proxy.name] = str(reason)
    return found


def slice_of(load: Load, seconds: float) -> Load:
    """The first seconds of a workload."""
    arrivals = [(at, request) for at, request in load.arrivals if at < seconds]
    return Load(load.name, arrivals, load.block_tokens)


def measure(proxy: Proxy, fleet: Sequence[ServerConfig], load: Load) -> Replayed:
    """One run: fresh servers, a fresh proxy, one workload.

    Raises:
        NotStartedError: if something does not come up.
    """
    with ExitStack() as stack:
        folder = State.of_user().folder / "routing" / proxy.name
        folder.mkdir(parents=True, exist_ok=True)
        urls = stack.enter_context(_servers(fleet, folder))
        port, metrics = free_ports(2)
        place = _Place(list(zip(urls, fleet, strict=True)), port, metrics, folder)
        stack.enter_context(running(proxy.command(place), folder / "proxy.log", TREE))
        url = f"http://127.0.0.1:{port}{proxy.path}"
        _await_reply(url, folder)
        return asyncio.run(replay(load, url, _MODEL, faster=FASTER, smaller=SMALLER))


@contextmanager
def _servers(fleet: Sequence[ServerConfig], folder: Path) -> Iterator[list[str]]:
    """Simulated servers; yields their URLs."""
    with ExitStack() as stack:
        started = []
        for number, config in enumerate(fleet):
            log = folder / f"server-{number}.log"
            command = [
                *(sys.executable, "-m", "ollad", "simulate", "--port", "0", "--model", _MODEL),
                *("--prefill-rate", str(config.prefill_rate / SMALLER)),
                *("--tokens-per-second", str(config.decode_rate / SMALLER)),
                *("--cache-tokens", str(config.cache_tokens // SMALLER)),
                *("--max-running-requests", str(config.max_running)),
                *("--context-length", str(config.cache_tokens)),
                *("--time-scale", str(FASTER)),
            ]
            started.append((stack.enter_context(running(command, log, TREE)), log))
        yield [announced(process, log, _START_SECONDS) for process, log in started]


def _await_reply(url: str, folder: Path) -> None:
    """Ask until there is a reply; what it leaves in the caches is some tokens."""
    body = json.dumps(
        {"model": _MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    ).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                reply.read()
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise NotStartedError(f"no reply from {url} in {_START_SECONDS:g} s; see {folder}")
