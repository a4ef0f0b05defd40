"""The servers and the daemons that the tests share."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.system import rig
from tests.system.daemon import endpoint, running_ollad
from tests.system.rig import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.daemon import Ollad

TEST_SECONDS = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests with real servers more time, and their fixtures time of their own."""
    for item in items:
        if item.path.is_relative_to(rig.SCRIPTS.parent):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session", autouse=True)
def _servers_end_with_the_tests() -> Iterator[None]:
    """Let SIGTERM unwind the fixtures as Ctrl-C does, so that no server outlives the run."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


def external() -> tuple[Server, ...]:
    """The servers of ``OLLAD_SGLANG_URL``, which are used instead of the rig's own."""
    urls = [url for url in os.environ.get("OLLAD_SGLANG_URL", "").split(",") if url.strip()]
    return tuple(Server(f"external-{n}", url.strip().rstrip("/")) for n, url in enumerate(urls))


def generates(server: Server) -> bool:
    """Whether a server generates text (the other kind makes embeddings)."""
    with urllib.request.urlopen(f"{server.url}/model_info", timeout=10) as reply:
        return bool(json.load(reply)["is_generation"])


@pytest.fixture(scope="session")
def generative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ...]]:
    """Servers of one generative model: two of the rig, or those of ``OLLAD_SGLANG_URL``."""
    if given := external():
        yield tuple(server for server in given if generates(server))
        return
    try:
        servers = rig.start_all(("sglang-a", "sglang-b"), tmp_path_factory.mktemp("sglang"))
    except rig.RigUnavailableError as missing:
        pytest.skip(f"no real SGLang on this machine: {missing}")
    yield servers
    for server in servers:
        rig.stop(server)


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with ``--is-embedding``, for the generative model makes no embeddings."""
    if given := external():
        servers = [server for server in given if not generates(server)]
        if not servers:
            pytest.skip("OLLAD_SGLANG_URL names no embedding server")
        yield servers[0]
        return
    try:
        rig.set_up()
    except rig.RigUnavailableError as missing:
        pytest.skip(f"no real SGLang on this machine: {missing}")
    run = tmp_path_factory.mktemp("sglang-embedding")
    server = rig.start("sglang-embedding", run, "--is-embedding", model="tiny-embed")
    yield server
    rig.stop(server)


@pytest.fixture(scope="session")
def model(generative: tuple[Server, ...]) -> str:
    """The model that the generative servers serve."""
    with urllib.request.urlopen(f"{generative[0].url}/v1/models", timeout=10) as reply:
        return str(json.load(reply)["data"][0]["id"])


@pytest.fixture(scope="session")
def ollad(
    generative: tuple[Server, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ollad]:
    """ollad in front of the generative servers."""
    folder = tmp_path_factory.mktemp("ollad")
    with running_ollad([endpoint(server) for server in generative], folder) as daemon:
        yield daemon
