"""Writes docs/metrics.md from the definitions: `python -m cli.metrics_document > docs/metrics.md`."""

from __future__ import annotations

from types import ModuleType

from libs.call_leg import instruments as gateways
from libs.object_store import instruments as object_store
from libs.plugins import instruments as plugins
from libs.runtime import instruments as every_service
from libs.runtime.metrics import Histogram, Label, Metric
from services.ai_session import instruments as ai_session
from services.browser_gateway import instruments as browser_gateway
from services.catalog_tools import instruments as catalog_tools
from services.recorder import instruments as recorder
from services.rehearsal.metrics import DEFINED, Defined
from services.sip_gateway import instruments as sip_gateway, quality
from services.transcript_store import instruments as transcript_store
from services.twilio_gateway import instruments as twilio_gateway

HEAD = """# Metrics

Generated from the definitions in the `instruments` modules; do not edit (`python -m cli.metrics_document`). Every
service tells them at `/metrics` of its health server (`HEALTH_PORT`), with those of
[prometheus_client](https://prometheus.github.io/client_python/collector/) for the process (`process_*`, `python_*`).

Units are base units: seconds, bytes, ratios from 0 to 1. A histogram has `_bucket{le}`, `_sum` and `_count`. Labels
are bounded: a value outside of what stands here is shown as `other`. Times inside one call are in its record
(`callbus show`), not here: no metric has the id of a call, a number or a text.
"""
TABLE = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n"
REHEARSAL = f"\n## rehearsal\n\nAt `/metrics` of its one port; it is on no bus.\n\n{TABLE}"
EVERY_SERVICE = (
    "sip_gateway",
    "twilio_gateway",
    "browser_gateway",
    "ai_session",
    "transcript_store",
    "catalog_tools",
    "recorder",
    "plugins",
)
GATEWAYS = EVERY_SERVICE[:3]
SECTIONS: dict[str, tuple[tuple[ModuleType, ...], tuple[str, ...]]] = {
    "Every service": ((every_service,), EVERY_SERVICE),
    "Every gateway": ((gateways,), GATEWAYS),
    "sip_gateway": ((sip_gateway, quality), ("sip_gateway",)),
    "twilio_gateway": ((twilio_gateway,), ("twilio_gateway",)),
    "browser_gateway": ((browser_gateway,), ("browser_gateway",)),
    "ai_session": ((ai_session,), ("ai_session",)),
    "transcript_store": ((transcript_store,), ("transcript_store",)),
    "catalog_tools": ((catalog_tools,), ("catalog_tools",)),
    "catalog_tools and plug-ins that run by themselves": ((plugins,), ("catalog_tools", "plugins")),
    "recorder": ((recorder,), ("recorder",)),
    "recorder and ai_session": ((object_store,), ("recorder", "ai_session")),
}


def metrics_in(modules: tuple[ModuleType, ...]) -> list[Metric]:
    """The metrics that modules define, by name."""
    found = {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Metric)}
    return [metric for _, metric in sorted(found.items())]


def metrics_of(service: str) -> dict[str, Metric]:
    """All metrics that a service may show, by name."""
    return {
        metric.name: metric
        for modules, services in SECTIONS.values()
        if service in services
        for metric in metrics_in(modules)
    }


def render() -> str:
    """The page."""
    parts = [HEAD]
    for title, (modules, _) in SECTIONS.items():
        parts.append(f"\n## {title}\n\n{TABLE}")
        parts += [_row(metric) for metric in metrics_in(modules)]
    parts += [REHEARSAL, *(_row(metric) for metric in DEFINED)]
    return "".join(parts)


def _row(metric: Metric | Defined) -> str:
    labels = "<br>".join(f"`{name}`: {_values(label)}" for name, label in metric.labels.items())
    text = metric.text
    if isinstance(metric, Histogram):
        text += f". Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {text} |\n"


def _values(label: Label | str) -> str:
    if isinstance(label, str):
        return label
    if label.values:
        return ", ".join(f"`{value}`" for value in label.values)
    return f"{label.text} (at most {label.most})" if label.most else label.text


if __name__ == "__main__":
    print(render(), end="")
