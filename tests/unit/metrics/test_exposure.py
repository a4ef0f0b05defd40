from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_async.aio.web import server_stats
from prometheus_client import REGISTRY, generate_latest

from ollad.metrics import Telemetry, exposed


def test_only_the_exposed_telemetry_is_on_the_page() -> None:
    one, two = Telemetry(), Telemetry()
    one.retries_exhausted("chat")
    two.retries_exhausted("generate")
    with exposed(one):
        page = generate_latest(REGISTRY)
    assert b'ollad_retries_exhausted_total{family="chat"} 1.0' in page
    assert b'family="generate"' not in page
    assert page.count(b"# TYPE ollad_build_info ") == 1


def test_two_daemons_may_be_shown_at_once_and_nothing_stays_behind() -> None:
    before = generate_latest(REGISTRY).count(b"# TYPE")
    with exposed(Telemetry()), exposed(Telemetry()):
        pass
    with pytest.raises(ZeroDivisionError), exposed(Telemetry()):
        _ = 1 / 0
    assert generate_latest(REGISTRY).count(b"# TYPE") == before


def test_the_server_stats_of_prometheus_async_never_suspend() -> None:
    """What ``exposed`` relies on: nothing else can run while the page is made."""
    with pytest.raises(StopIteration):
        server_stats(make_mocked_request("GET", "/metrics")).send(None)
