"""From code to the files that Grafana reads."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.dashboards import bus, cost, lines, one_call, overview, workers

FOLDER = Path(__file__).parent
DASHBOARDS = {
    "overview": overview.build,
    "one-call": one_call.build,
    "workers": workers.build,
    "lines": lines.build,
    "cost": cost.build,
    "bus": bus.build,
}


def render() -> dict[str, str]:
    """Every dashboard's JSON by the name of its file."""
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    return {f"{name}.json": encoder.encode(build().build()) + "\n" for name, build in DASHBOARDS.items()}
