"""Real servers that are killed, told to stop, or started late, while clients are being served."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.ports import free_ports
from tests.system import rig
from tests.system.curl import curl, post
from tests.system.daemon import endpoint, running_ollad
from tests.system.rig import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.daemon import Ollad

MODEL = "tiny-llama"
ENDLESS = 6000
"""Tokens: more than the server makes before the test has done what it came for."""
SOME = 400
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stream:
    """What a client got of a stream.

    Attributes:
        endpoint: which server it came from.
        body: all bytes of the content.
        whole: whether the message ended as its framing said it would.
    """

    endpoint: str
    body: bytes
    whole: bool

    @property
    def finished(self) -> bool:
        """Whether the content says that it is all."""
        return self.body.rstrip().endswith(b"data: [DONE]")


def chat(tokens: int, *, stream: bool) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me of the river."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }


def read_stream(ollad: Ollad, tokens: int, begun: threading.Semaphore) -> Stream:
    """Read a stream to its end, whichever that is."""
    address = urllib.parse.urlsplit(ollad.api)
    connection = http.client.HTTPConnection(address.netloc, timeout=SECONDS * 2)
    body = json.dumps(chat(tokens, stream=True))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"{address.path}/v1/chat/completions", body, headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    name = response.headers["X-Olla-Endpoint"]
    received = response.read1()
    begun.release()
    try:
        while data := response.read1():
            received += data
    except (http.client.IncompleteRead, ConnectionError):
        return Stream(name, received, whole=False)
    finally:
        connection.close()
    return Stream(name, received, whole=response.isclosed())


def read_streams(ollad: Ollad, count: int, tokens: int, then: Callable[[], None]) -> list[Stream]:
    """Read streams side by side, and do something once all of them have begun."""
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(count) as threads:
        jobs = [threads.submit(read_stream, ollad, tokens, begun) for _ in range(count)]
        for _ in jobs:
            assert begun.acquire(timeout=SECONDS), [job for job in jobs if job.done()]
        then()
        return [job.result() for job in jobs]


def state(ollad: Ollad, name: str) -> str:
    entries = curl(f"{ollad.url}/internal/status/endpoints").json()["endpoints"]
    return str(next(entry["state"] for entry in entries if entry["name"] == name))


def wait_for_state(ollad: Ollad, name: str, *wanted: str) -> None:
    deadline = time.monotonic() + SECONDS
    while (now := state(ollad, name)) not in wanted:
        assert time.monotonic() < deadline, f"{name} is {now}, not {' or '.join(wanted)}"
        time.sleep(0.2)


def process_of(server: Server, part: str) -> int:
    """The process of a server with this in its command line; the main one for nothing."""
    assert server.run is not None
    main = int((server.run / "pid").read_text())
    if not part:
        return main
    for folder in Path("/proc").iterdir():
        try:
            pid = int(folder.name)
            if os.getpgid(pid) == main != pid and part in (folder / "cmdline").read_text():
                return pid
        except (ValueError, ProcessLookupError, FileNotFoundError):
            continue
    raise AssertionError(f"{server.name} has no process {part!r}")


@pytest.fixture
def victim(generative: tuple[Server, ...], tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to be killed."""
    if generative[0].run is None:
        pytest.skip("servers that somebody else started are not killed")
    server = rig.start("victim", tmp_path / "victim")
    yield server
    rig.stop(server)


@pytest.fixture
def both(victim: Server, generative: tuple[Server, ...], tmp_path: Path) -> Iterator[Ollad]:
    """ollad in front of the victim and of a server that lives on."""
    survivor = Server("survivor", generative[0].url)
    endpoints = [
        endpoint(server, check_interval="1s", check_timeout="1s") for server in (victim, survivor)
    ]
    with running_ollad(endpoints, tmp_path / "ollad") as daemon:
        yield daemon


def check_after_a_death(ollad: Ollad, streams: list[Stream]) -> None:
    """Streams of the dead one are cut for everybody to see, those of the other one are whole."""
    assert {stream.endpoint for stream in streams} == {"victim", "survivor"}
    for stream in streams:
        dead = stream.endpoint == "victim"
        assert stream.whole is not dead, stream.endpoint
        assert stream.finished is not dead, stream.body[-200:]
        assert b"data: " in stream.body
    for _ in range(6):
        reply = post(f"{ollad.api}/v1/chat/completions", chat(4, stream=False))
        assert (reply.status, reply.headers["x-olla-endpoint"]) == (200, "survivor"), reply.body


@pytest.mark.parametrize("part", ["scheduler", ""], ids=["scheduler", "main process"])
def test_a_killed_server_cuts_its_own_streams_and_no_others(
    both: Ollad, victim: Server, part: str
) -> None:
    pid = process_of(victim, part)
    streams = read_streams(both, 6, ENDLESS // 4, lambda: os.kill(pid, signal.SIGKILL))
    check_after_a_death(both, streams)
    wait_for_state(both, "victim", "down")


def test_a_server_told_to_stop_finishes_its_streams(both: Ollad, victim: Server) -> None:
    pid = process_of(victim, "")
    streams = read_streams(both, 6, SOME, lambda: os.kill(pid, signal.SIGTERM))
    assert {stream.endpoint for stream in streams} == {"victim", "survivor"}
    for stream in streams:
        assert stream.whole
        assert stream.finished, stream.body[-200:]
    wait_for_state(both, "victim", "down")
    reply = post(f"{both.api}/v1/chat/completions", chat(4, stream=False))
    assert (reply.status, reply.headers["x-olla-endpoint"]) == (200, "survivor"), reply.body


def test_a_server_may_start_after_ollad(generative: tuple[Server, ...], tmp_path: Path) -> None:
    if generative[0].run is None:
        pytest.skip("servers that somebody else started say nothing about how one starts")
    late = Server("late", f"http://127.0.0.1:{free_ports(1)[0]}", tmp_path / "late")
    only = [endpoint(late, check_interval="1s", check_timeout="1s")]
    with running_ollad(only, tmp_path / "ollad", answers="/internal/health") as ollad:
        refused = post(f"{ollad.api}/v1/chat/completions", chat(4, stream=False))
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["message"]
        assert curl(f"{ollad.url}/internal/ready").status == 503
        rig.start(late.name, tmp_path / "late", port=late.port)
        try:
            wait_for_state(ollad, "late", "healthy", "recovering")
            reply = post(f"{ollad.api}/v1/chat/completions", chat(4, stream=False))
            assert (reply.status, reply.headers["x-olla-endpoint"]) == (200, "late"), reply.body
            assert curl(f"{ollad.url}/internal/ready").status == 200
        finally:
            rig.stop(late)
