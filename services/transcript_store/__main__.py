"""`python -m services.transcript_store`"""

from __future__ import annotations

import sys

from sqlalchemy.exc import SQLAlchemyError

from libs.runtime.database import failed
from libs.runtime.service import Service, nobody_listens, run
from services.transcript_store import instruments
from services.transcript_store.app import App, opened
from services.transcript_store.settings import Settings


async def main(service: Service, settings: Settings) -> None:
    """Open the database, serve until the process is asked to stop."""
    try:
        async with opened(settings.transcript_database_url) as sessions:
            app = App(service.bus, service.outbox, sessions, settings)
            consumer, watch = app.consumer, app.watch
            service.health.checks["database"] = lambda: None if consumer.database_works else "events are not stored"
            consumer.export()
            instruments.OPEN.read_from(lambda: watch.open_calls)
            instruments.JANITOR.read_from(lambda: watch.counters)
            instruments.QUERIES.read_from(lambda: app.counters)
            await app.run(service.stopping, listening=lambda: service.is_up(nobody_listens))
    except (SQLAlchemyError, ValueError, OSError) as problem:
        raise failed(settings.transcript_database_url, problem) from problem


if __name__ == "__main__":
    sys.exit(run("transcript_store", "ts", Settings, main))
