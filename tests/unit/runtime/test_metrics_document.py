"""docs/metrics.md says what the definitions say, and the definitions keep to the conventions of Prometheus."""

import ast
import re
from pathlib import Path

import pytest

from cli.metrics_document import SECTIONS, metrics_in, render
from libs.runtime.metrics import OTHER, Metric
from libs.runtime.version import VERSION

ROOT = Path(__file__).parents[3]
ALL = [metric for modules, _ in SECTIONS.values() for metric in metrics_in(modules)]
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info", "_frames")
# Counts of things that are there now have the things' name.
THINGS = ("calls", "workers", "held", "waiting", "products", "sessions", "capacity", "connections", "events", "over")
STATES = ("_up", "_state", "_draining")


def test_the_page_is_what_the_definitions_say():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == render(), "run `python -m cli.metrics_document > docs/metrics.md`"


def test_every_definition_is_on_the_page():
    """A module with definitions that `cli.metrics_document` does not know would be found at a scrape only."""
    called = {"counter", "gauge", "histogram"}
    names = set()
    for path in [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]:
        tree = ast.parse(path.read_text())
        if not any(isinstance(n, ast.ImportFrom) and n.module == "libs.runtime.metrics" for n in ast.walk(tree)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in called:
                names.add(ast.literal_eval(node.args[0]))
    assert names == {metric.name for metric in ALL}


def test_nothing_reaches_the_page_beside_the_definitions():
    """Only the metrics and the health page use `prometheus_client`; rehearsal is no service of ours."""
    users = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]
        if "prometheus_client" in path.read_text() and "rehearsal" not in path.parts
    }
    assert users == {"libs/runtime/metrics.py", "libs/runtime/health.py"}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_have_base_units_and_texts_say_something(metric: Metric):
    assert re.fullmatch(r"callbus_[a-z_]+", metric.name)
    assert (metric.name.endswith("_total")) == (metric.kind == "counter")
    assert metric.name.endswith((*UNITS, *THINGS, *STATES))
    assert not re.search(r"_(ms|milliseconds|minutes|kb|percent)(_|$)", metric.name)
    assert len(metric.text) > 5
    assert not metric.text.endswith(".")
    assert "|" not in metric.text


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_labels_are_bounded_and_explained(metric: Metric):
    assert len(metric.labels) <= 4
    for name, label in metric.labels.items():
        assert re.fullmatch("[a-z]+", name)
        assert label.values or label.text
        assert label.values or label.pattern or 0 < label.most <= 500
        assert OTHER not in label.values
        assert name not in ("call", "caller", "callee", "number", "text", "epoch")


def test_names_are_unique():
    names = [metric.name for metric in ALL]
    assert len(names) == len(set(names))


def test_the_version_is_that_of_the_project():
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
