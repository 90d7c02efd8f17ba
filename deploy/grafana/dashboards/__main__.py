"""Write the JSON files: `python -m deploy.grafana.dashboards`."""

from __future__ import annotations

from deploy.grafana.dashboards.generate import FOLDER, render

if __name__ == "__main__":
    for name, page in render().items():
        (FOLDER / name).write_text(page)
