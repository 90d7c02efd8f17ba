"""Dashboards, rules and their page name only what exists: metrics, labels, values, recorded series, anchors, ports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from cli.checkout import ROOT
from cli.metrics_document import EVERY_SERVICE, metrics_of
from deploy.grafana.dashboards.generate import FOLDER, render
from libs.runtime.metrics import OTHER, Histogram

PROMETHEUS = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
METRICS = {name: metric for service in EVERY_SERVICE for name, metric in metrics_of(service).items()}
# of Prometheus itself and of the client library
FOREIGN = {"up", "ALERTS", "process_cpu_seconds_total", "process_resident_memory_bytes"}
EVERYWHERE = {"job", "instance"}
PARTS = re.compile(r"_(bucket|sum|count)$")
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
NAME = re.compile(r"\b(?:[a-z_]*:)?callbus_[a-z0-9_]+(?::[a-z0-9_]+)?")


def rules(name: str) -> list[dict[str, object]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"] for rule in rules("recording.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL."""
    for name in ("recording.yml", "alerts.yml"):
        for rule in rules(name):
            yield str(rule.get("record") or rule.get("alert")), str(rule["expr"])
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.stem}: {panel['title']}", target["expr"]


def definition(name: str) -> object:
    """The metric that a sample's name belongs to."""
    found = METRICS.get(name)
    if found is None and isinstance(whole := METRICS.get(PARTS.sub("", name)), Histogram):
        return whole
    return found


@pytest.mark.parametrize("name", sorted(render()))
def test_a_dashboard_is_what_its_code_says(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == render()[name], "run `python -m deploy.grafana.dashboards`"


def test_there_is_no_dashboard_without_code() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(render())


@pytest.mark.parametrize("name", sorted(render()))
def test_a_dashboard_is_complete_and_its_panels_lie_beside_each_other(name: str) -> None:
    raw = json.loads(render()[name])
    assert json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(raw))) == raw
    taken: set[tuple[int, int]] = set()
    for panel in raw["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in raw["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("where", "expr"), list(expressions()))
def test_a_query_names_metrics_labels_and_values_that_exist(where: str, expr: str) -> None:
    for name in NAME.findall(expr):
        assert name in RECORDED or definition(name) is not None, f"{where}: {name}"
    for name, inside in SELECTOR.findall(expr):
        metric = definition(name)
        if name in RECORDED or name in FOREIGN:
            continue
        assert metric is not None, f"{where}: {name}"
        for label, how, value in MATCHER.findall(inside):
            if label in EVERYWHERE:
                continue
            assert label in metric.labels, f"{where}: {name} has no label {label}"
            closed = metric.labels[label].values
            if not closed:
                continue
            for part in value.split("|") if how in ("=~", "!~") else [value]:
                fits = [known for known in (*closed, OTHER) if re.fullmatch(part, known)]
                assert fits, f"{where}: {label} of {name} is never {part}"


@pytest.mark.parametrize(("where", "expr"), [(where, expr) for where, expr in expressions() if "/" in expr])
def test_nothing_is_divided_by_what_may_be_nothing(where: str, expr: str) -> None:
    for divisor in expr.split("/")[1:]:
        assert re.fullmatch(r"\s*\(.*\) > 0\)\s*", divisor, re.S), f"{where}: NaN where nobody calls"


def test_the_metrics_that_are_named_stand_in_their_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    named = {name for _, expr in expressions() for name in NAME.findall(expr)} - RECORDED
    assert [name for name in sorted(named) if f"`{PARTS.sub('', name)}`" not in page and f"`{name}`" not in page] == []


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE, re.M)}
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "none"), name
        assert rule["annotations"]["summary"], name
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}", name
        assert name.lower() in anchors, name
    assert {anchor for anchor in anchors if anchor.startswith("callbus")} == {name.lower() for name in ALERTS}


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    cases = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text("utf-8"))["tests"]
    tested = [(each["alertname"], bool(each["exp_alerts"])) for case in cases for each in case["alert_rule_test"]]
    assert {name for name, fires in tested if fires} == set(ALERTS)
    assert {name for name, fires in tested if not fires} == set(ALERTS) - {"CallbusWatchdog"}  # it is never silent


def test_recorded_series_are_used() -> None:
    used = {name for _, expr in expressions() for name in NAME.findall(expr)}
    assert used >= RECORDED


def test_prometheus_looks_for_every_service_where_its_image_tells() -> None:
    [services, _] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    [found] = services["dns_sd_configs"]
    assert set(found["names"]) == {*EVERY_SERVICE, "rehearsal"} - {"plugins"}
    image = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    assert f"HEALTH_PORT={found['port']} " in image
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    assert set(found["names"]) <= set(compose)


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))["global"]
    assert source["jsonData"]["timeInterval"] == settings["scrape_interval"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "callbus.yml").read_text("utf-8"))["providers"]
    grafana = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]["grafana"]
    mounts = {Path(one.split(":")[1]): one.split(":")[0] for one in grafana["volumes"]}
    assert mounts[Path(provider["options"]["path"])] == "./grafana/dashboards"
    assert mounts[Path("/etc/grafana/provisioning")] == "./grafana/provisioning"
