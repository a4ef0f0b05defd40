"""Rules and dashboard in ``etc/`` ask for nothing that ollad does not export."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client import REGISTRY

from ollad.backends.snapshot import Load, Snapshot
from ollad.metrics import Telemetry
from ollad.sglang.page_metrics import PageCollector
from tests.unit.builders import make_backend
from tests.unit.metrics.test_telemetry import exercise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ETC = Path(__file__).parents[3] / "etc"
DASHBOARD = json.loads((ETC / "grafana" / "ollad.json").read_text())
RULES = yaml.safe_load((ETC / "prometheus" / "ollad.rules.yml").read_text())
SCRAPES = yaml.safe_load((ETC / "prometheus" / "prometheus.yml").read_text())

OF_PROMETHEUS = {"job", "instance", "le"}
METRIC = re.compile(r"(?<![\w:])((?:ollad|sglang|process)_\w+)(?![\w:])(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def rules() -> Iterator[dict[str, Any]]:
    for group in RULES["groups"]:
        yield from group["rules"]


def panels() -> Iterator[dict[str, Any]]:
    yield from DASHBOARD["panels"]


def queries() -> Iterator[str]:
    """Every expression of rules and dashboard."""
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["target"]["expr"]


def variables() -> dict[str, str]:
    """The queries of the dashboard's variables."""
    return {
        variable["name"]: variable["query"]["query"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    }


@pytest.fixture(scope="module")
def exported() -> Mapping[str, set[str]]:
    """The labels of every series on either page, by its name."""
    backend = make_backend("sgl-a")
    backend.snapshot = Snapshot(
        state=backend.snapshot.state,
        models=backend.snapshot.models,
        load=Load(1, 1, 1, 0.1, 0.1, 0.1, 1, 1, 1),
    )
    telemetry = Telemetry()
    telemetry.bind_pool(lambda: (backend,), clock=lambda: 0.0)
    exercise(telemetry)
    telemetry.reloaded(worked=True, wall=0.0)
    labels: dict[str, set[str]] = {}
    pages = (telemetry.registry, telemetry.page_registry, PageCollector([backend]), REGISTRY)
    for page in pages:
        for family in page.collect():
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def test_every_metric_is_exported_with_the_labels_that_are_asked_for(
    exported: Mapping[str, set[str]],
) -> None:
    seen = set()
    for expression in [*queries(), *variables().values()]:
        for name, selector in METRIC.findall(expression):
            seen.add(name)
            assert name in exported, expression
            assert set(LABEL.findall(selector)) <= exported[name] | OF_PROMETHEUS, expression
    assert len(seen) > 30


def test_what_is_grouped_by_are_labels_of_what_is_grouped(
    exported: Mapping[str, set[str]],
) -> None:
    for expression in queries():
        named = {name for name, _ in METRIC.findall(expression)}
        if not named:
            continue
        known = OF_PROMETHEUS.union(*(exported[name] for name in named))
        for names in GROUPED.findall(expression):
            assert {name.strip() for name in names.split(",") if name.strip()} <= known, expression


def test_recorded_series_that_are_used_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for expression in queries() for name in re.findall(r"\b\w+:\w+:\w+\b", expression)}
    assert used <= recorded


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) == len({rule["alert"] for rule in alerts}) > 10
    for rule in alerts:
        assert rule["alert"].startswith("Ollad")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description", "action"}
        assert all(len(text) > 20 for text in rule["annotations"].values())


def test_every_alert_is_tried_by_promtool() -> None:
    tests = (Path(__file__).parents[2] / "data" / "prometheus" / "rules.test.yml").read_text()
    for rule in rules():
        if "alert" in rule:
            assert rule["alert"] in tests, rule["alert"]


def test_the_scrape_example_asks_for_both_pages_under_the_names_that_the_rules_use() -> None:
    jobs = {job["job_name"]: job["metrics_path"] for job in SCRAPES["scrape_configs"]}
    assert jobs == {"ollad": "/metrics", "sglang": "/olla/sglang/metrics"}
    assert set(re.findall(r'job="(\w+)"', "".join(queries()))) <= set(jobs)


def test_the_dashboard_can_be_shown_with_any_data_source() -> None:
    assert DASHBOARD["uid"] == "ollad"
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        if panel["type"] != "row":
            assert panel["datasource"] == source
            assert panel["targets"]
            assert all(target["datasource"] == source for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_have_a_place_and_a_name_of_their_own() -> None:
    places = [panel["gridPos"] for panel in panels()]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in panels()}) == len(places)
    assert len({panel["title"] for panel in panels()}) == len(places)


def test_every_variable_exists_and_is_used() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "job", "page_job", "instance", "endpoint", "model"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used == names | {"__rate_interval"}
