"""docs/metrics.md says what the definitions say, and the definitions keep to the conventions of Prometheus."""

import ast
import re
from pathlib import Path

import pytest

from cli.metrics_document import SECTIONS, metrics_in, render
from libs.call_leg import instruments as gateways
from libs.plugins import instruments as plugins
from libs.runtime import instruments as every_service
from libs.runtime.metrics import OTHER, Metric
from libs.runtime.version import VERSION
from services.ai_session import instruments as ai_session
from services.catalog_tools import instruments as catalog_tools
from services.recorder import instruments as recorder
from services.sip_gateway import instruments as sip_gateway
from services.transcript_store import instruments as transcript_store

ROOT = Path(__file__).parents[3]
ALL = [metric for modules, _ in SECTIONS.values() for metric in metrics_in(modules)]
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info", "_frames")
# Counts of things that are there now have the things' name.
THINGS = (
    "calls",
    "workers",
    "held",
    "waiting",
    "products",
    "sessions",
    "capacity",
    "connections",
    "events",
    "over",
    "sockets",
)
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


@pytest.mark.parametrize(
    ("metrics", "files"),
    [
        ((gateways.SLOTS,), ["libs/call_leg/slots.py"]),
        ((gateways.ROSTER,), ["libs/call_leg/roster.py"]),
        ((gateways.REJECTED,), ["libs/call_leg/gateway.py"]),
        ((gateways.ORIGINATIONS,), ["libs/call_leg/originate.py"]),
        ((every_service.EVENTS,), ["libs/runtime/outbox.py"]),
        ((sip_gateway.TRACE,), ["services/sip_gateway/trace.py"]),
        ((transcript_store.EVENTS, transcript_store.TROUBLES), ["services/transcript_store/consumer.py"]),
        ((transcript_store.JANITOR,), ["services/transcript_store/watch.py"]),
        ((catalog_tools.REQUESTS,), ["services/catalog_tools/server.py"]),
        ((catalog_tools.ANSWERS,), ["services/catalog_tools/tools.py"]),
        (
            (catalog_tools.DECLARED,),
            [
                "services/catalog_tools/http_tool.py",
                "services/catalog_tools/mcp_server.py",
                "libs/plugins/endpoints.py",
            ],
        ),
        ((plugins.CALLS,), ["libs/plugins/runner.py", "libs/plugins/endpoints.py", "libs/plugins/host.py"]),
        ((recorder.RECORDINGS,), ["services/recorder/recorder.py"]),
        ((recorder.FRAMES,), ["libs/audio/stereo.py", "services/recorder/recording.py"]),
        ((ai_session.SPEECH,), ["services/ai_session/voices/cache.py"]),
        ((ai_session.RATE_LIMIT,), ["services/ai_session/rate_limit.py"]),
        ((ai_session.SPENDING,), ["services/ai_session/budget_shell.py"]),
        ((ai_session.TOOL_LOOKUPS,), ["services/ai_session/tools.py"]),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else "",
)
def test_what_is_counted_by_name_is_in_the_closed_set_of_its_label(metrics: tuple[Metric, ...], files: list[str]):
    known = {value for metric in metrics for label in metric.labels.values() for value in label.values}
    elsewhere = {"retried", "stored_bytes"}  # they have metrics of their own
    counted = {
        name
        for file in files
        for name in re.findall(r'(?:counters\[|_counted\()"([a-z_]+)"', (ROOT / file).read_text())
    }
    assert counted <= known | elsewhere
