"""`python -m services.catalog_tools`"""

from __future__ import annotations

import sys

from sqlalchemy.exc import SQLAlchemyError

from libs.plugins.instruments import CALLS
from libs.runtime.database import failed
from libs.runtime.service import Service, nobody_listens, run
from services.catalog_tools import instruments
from services.catalog_tools.app import App, opened
from services.catalog_tools.settings import Settings


async def main(service: Service, settings: Settings) -> None:
    """Open the database, serve until the process is asked to stop."""
    try:
        async with opened(settings.catalog_database_url) as sessions:
            app = App(service.bus, service.outbox, sessions, settings)
            service.health.checks["database"] = app.probe.problem
            instruments.REQUESTS.read_from(lambda: app.server.counters)
            instruments.ANSWERS.read_from(lambda: app.toolbox.counters)
            instruments.DECLARED.read_from(lambda: app.declared.counters)
            instruments.PRODUCTS.read_from(lambda: len(app.catalog.index.articles))
            CALLS.read_from(lambda: app.plugins.counters)
            await app.run(service.stopping, listening=lambda: service.is_up(nobody_listens))
    except (SQLAlchemyError, ValueError, OSError) as problem:
        raise failed(settings.catalog_database_url, problem) from problem


if __name__ == "__main__":
    sys.exit(run("catalog_tools", "ct", Settings, main))
