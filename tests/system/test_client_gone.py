"""A client that goes away stops the generation on the server."""

from __future__ import annotations

import json
import socket
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.curl import curl

if TYPE_CHECKING:
    from tests.system.daemon import Ollad
    from tests.system.rig import Server

ABORT_SECONDS = 30
"""SGLang looks for the client of a reply that is not streamed every 4 s."""


def aborted(servers: tuple[Server, ...]) -> float:
    """``sglang:num_aborted_requests_total`` over all servers."""
    total = 0.0
    for server in servers:
        for family in text_string_to_metric_families(curl(f"{server.url}/metrics").body.decode()):
            if family.name == "sglang:num_aborted_requests":
                total += sum(s.value for s in family.samples if s.name.endswith("_total"))
    return total


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_goes_away_stops_the_generation(
    ollad: Ollad, generative: tuple[Server, ...], model: str, *, stream: bool
) -> None:
    before = aborted(generative)
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": "Tell me of the river."}],
            "max_tokens": 7000,
            "ignore_eos": True,
            "stream": stream,
        }
    ).encode()
    address = urllib.parse.urlsplit(ollad.api)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        client.sendall(
            b"POST %s/v1/chat/completions HTTP/1.1\r\nHost: ollad\r\n" % address.path.encode()
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        if stream:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        else:
            time.sleep(0.5)  # nothing tells from outside that a reply has begun to be made
    deadline = time.monotonic() + ABORT_SECONDS
    while aborted(generative) == before:
        assert time.monotonic() < deadline, "the server went on generating"
        time.sleep(0.2)
