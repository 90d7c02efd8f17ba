"""`python -m services.catalog_tools`"""

from __future__ import annotations

import sys

from sqlalchemy.exc import SQLAlchemyError

from libs.runtime.database import failed
from libs.runtime.metrics import export_counters, export_gauge
from libs.runtime.service import Service, run
from services.catalog_tools.app import App, opened
from services.catalog_tools.settings import Settings


async def main(service: Service, settings: Settings) -> None:
    """Open the database, serve until the process is asked to stop."""
    try:
        async with opened(settings.catalog_database_url) as sessions:
            app = App(service.bus, service.outbox, sessions, settings)
            service.health.checks["database"] = app.probe.problem
            export_counters("callbus_tool_calls", "Tool calls by end", "end", lambda: app.server.counters)
            export_counters("callbus_tool_answers", "Refused, repeated and raced", "kind", lambda: app.toolbox.counters)
            export_counters("callbus_plugin_calls", "Calls of plug-ins by end", "end", lambda: app.plugins.counters)
            export_counters("callbus_declared_tools", "Calls of declared tools", "end", lambda: app.declared.counters)
            export_gauge("callbus_catalogue_products", "Products on sale", lambda: len(app.catalog.index.articles))
            await app.run(service.stopping, listening=service.is_up)
    except (SQLAlchemyError, ValueError, OSError) as problem:
        raise failed(settings.catalog_database_url, problem) from problem


if __name__ == "__main__":
    sys.exit(run("catalog_tools", "ct", Settings, main))
