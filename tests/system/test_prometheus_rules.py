"""promtool and a real Prometheus take the files in ``etc/prometheus`` and ``etc/grafana``.

No real SGLang is needed: what is scraped is ollad in front of simulated servers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.ports import free_ports
from tests.system.curl import curl
from tests.system.daemon import running_ollad, wait_until_answered
from tests.system.rig import Server
from tests.system.test_prometheus import Prometheus, installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
ETC = ROOT / "etc"
RULE_TESTS = ROOT / "tests" / "data" / "prometheus" / "rules.test.yml"
MODEL = "simulated-llama"
REFRESH = 120


def promtool(*arguments: str, cwd: Path = ROOT) -> str:
    """What promtool says of something that it finds no fault with."""
    done = subprocess.run(
        [installed("promtool"), *arguments], cwd=cwd, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_no_fault_with_the_scrape_example_and_the_rules() -> None:
    said = promtool("check", "config", str(ETC / "prometheus" / "prometheus.yml"))
    assert "1 rule files found" in said
    assert "rules found" in said


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    shutil.copy(ETC / "prometheus" / "ollad.rules.yml", tmp_path)
    shutil.copy(RULE_TESTS, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS.name, cwd=tmp_path)


def panels() -> dict[str, list[str]]:
    """The queries of the dashboard's panels by title, with every variable filled in."""
    dashboard = json.loads((ETC / "grafana" / "ollad.json").read_text())
    values = dict.fromkeys(("$job", "$page_job", "$instance", "$endpoint", "$model"), ".*")
    values["$__rate_interval"] = "5s"
    return {
        panel["title"]: [filled(target["expr"], values) for target in panel["targets"]]
        for panel in dashboard["panels"]
        if "targets" in panel
    }


def filled(expression: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


@contextmanager
def simulated(name: str) -> Iterator[Server]:
    """A simulated SGLang server."""
    url = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
    command = [sys.executable, "-m", "ollad", "simulate", "--port", str(port), "--model", MODEL]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield Server(name, url)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Prometheus]]:
    """An ollad's URL, and the Prometheus that watches it by the files of ``etc/prometheus``."""
    program = installed("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        servers = [stack.enter_context(simulated(name)) for name in ("sim-a", "sim-b")]
        endpoints = [{"url": one.url, "name": one.name, "check_interval": "1s"} for one in servers]
        for one in endpoints:
            one["check_timeout"] = "1s"
        ollad = stack.enter_context(running_ollad(endpoints, folder / "ollad"))
        config: dict[str, Any] = yaml.safe_load((ETC / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config["global"]["evaluation_interval"] = "1s"
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [ollad.url.removeprefix("http://")]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(ETC / "prometheus" / "ollad.rules.yml", folder)
        listen = f"127.0.0.1:{free_ports(1)[0]}"
        log = stack.enter_context((folder / "log").open("wb"))
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
            yield ollad.url, Prometheus(f"http://{listen}")
        finally:
            process.terminate()
            process.wait(30)


def chat(url: str, number: int) -> None:
    body = {
        "model": MODEL if number % 5 else "unknown",
        "messages": [{"role": "user", "content": "Tell me of rivers, " * 40}],
        "max_tokens": 4,
        "stream": bool(number % 2),
    }
    if number % 2:
        body["stream_options"] = {"include_usage": True}
    curl(
        *("-H", "Content-Type: application/json", "-d", json.dumps(body)),
        f"{url}/olla/sglang/v1/chat/completions",
    )


EMPTY_WHEN_ALL_IS_WELL = {
    "Outcomes of exchanges, other than ok",
    "Requests sent again",
    "Streams that ended early",
    "Probes that fail",
}


def test_every_panel_of_the_dashboard_shows_something(watched: tuple[str, Prometheus]) -> None:
    url, prometheus = watched
    missing = panels()
    deadline = time.monotonic() + REFRESH
    number = 0
    while set(missing) - EMPTY_WHEN_ALL_IS_WELL:
        assert time.monotonic() < deadline, missing
        for _ in range(5):
            chat(url, number := number + 1)
        for title, queries in list(missing.items()):
            # no query may be one that Prometheus does not take
            samples = [prometheus.query(query) for query in queries]
            if all(any(sample["value"][1] != "NaN" for sample in found) for found in samples[:1]):
                del missing[title]


def test_no_alert_fires_while_all_is_well(watched: tuple[str, Prometheus]) -> None:
    _, prometheus = watched
    rules = curl(f"{prometheus.url}/api/v1/rules").json()["data"]["groups"]
    states = [rule for group in rules for rule in group["rules"]]
    assert len(states) > 20
    assert {rule["health"] for rule in states} == {"ok"}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []
