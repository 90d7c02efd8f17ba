"""The dashboards as code. `python -m deploy.grafana.dashboards` writes the JSON files beside, which Grafana reads."""
