"""A real Prometheus scrapes ollad's own metrics and those of the API page."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.ports import free_ports
from tests.system import page
from tests.system.curl import curl
from tests.system.daemon import wait_until_answered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.daemon import Ollad
    from tests.system.rig import Server

SCRAPE_SECONDS = 60


def installed(name: str) -> str:
    """The path of a program of Debian's package ``prometheus``."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package is called prometheus)")
    return path


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now."""
        answer = curl(f"{self.url}/api/v1/query?{urlencode({'query': expression})}").json()
        assert answer["status"] == "success", answer
        samples: list[dict[str, Any]] = answer["data"]["result"]
        return samples

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, as soon as it has any."""
        deadline = time.monotonic() + SCRAPE_SECONDS
        while not (samples := self.query(expression)):
            targets = curl(f"{self.url}/api/v1/targets").body
            assert time.monotonic() < deadline, f"{expression} has no samples; {targets!r}"
            time.sleep(0.5)
        return samples


@pytest.fixture(scope="module")
def prometheus(ollad: Ollad, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    program = installed("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    targets = [{"targets": [ollad.url.removeprefix("http://")]}]
    jobs = {"ollad": "/metrics", "sglang": "/olla/sglang/metrics"}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": name, "metrics_path": path, "static_configs": targets}
            for name, path in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={listen}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_answered(f"http://{listen}/-/ready", process, folder / "log", 60)
        yield Prometheus(f"http://{listen}")
    finally:
        process.terminate()
        process.wait(30)


def test_promtool_finds_no_fault_with_the_metrics_of_ollad(ollad: Ollad, model: str) -> None:
    promtool = installed("promtool")
    assert page.request("chat", ollad.url, model).status == 200
    own = curl(f"{ollad.url}/metrics")
    assert own.status == 200
    done = subprocess.run(
        [promtool, "check", "metrics"], input=own.body, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_both_targets_are_up(prometheus: Prometheus) -> None:
    for job in ("ollad", "sglang"):
        prometheus.wait_for(f'up{{job="{job}"}} == 1')


def test_a_chat_is_counted_with_family_model_and_code(
    prometheus: Prometheus, ollad: Ollad, model: str
) -> None:
    assert page.request("chat", ollad.url, model).status == 200
    labels = f'family="chat",model="{model}",code="200"'
    (sample,) = prometheus.wait_for(f"ollad_requests_total{{{labels}}} > 0")
    assert sample["metric"]["job"] == "ollad"


def test_streams_are_counted_by_their_tokens(
    prometheus: Prometheus, ollad: Ollad, model: str
) -> None:
    stream = {'"stream": false': '"stream": true, "stream_options": {"include_usage": true}'}
    assert page.request("chat", ollad.url, model, **stream).status == 200
    prometheus.wait_for('ollad_tokens_total{kind="output"} > 0')
    prometheus.wait_for('ollad_tokens_total{kind="input"} > 0')


def test_every_backend_has_a_state_and_a_weight(
    prometheus: Prometheus, generative: tuple[Server, ...]
) -> None:
    for name in ("ollad_backend_up", "ollad_backend_weight_ratio"):
        samples = prometheus.wait_for(f"{name} > 0")
        assert {one["metric"]["backend"] for one in samples} == {s.name for s in generative}


def test_the_series_of_the_page_are_there(
    prometheus: Prometheus, ollad: Ollad, generative: tuple[Server, ...], model: str
) -> None:
    assert page.request("generate", ollad.url).status == 200
    endpoints = {server.name for server in generative}
    for name, kind in page.METRICS.items():
        if kind == "histogram":
            prometheus.wait_for(f'{name}_count{{model="{model}"}} > 0')
            prometheus.wait_for(f"histogram_quantile(0.5, sum by (le) ({name}_bucket)) >= 0")
    for name in ("sglang_num_requests_running", "sglang_radix_cache_usage_perc"):
        samples = prometheus.wait_for(f'{name}{{model="{model}"}}')
        assert {one["metric"]["endpoint"] for one in samples} == endpoints
