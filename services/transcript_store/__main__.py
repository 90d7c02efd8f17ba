"""`python -m services.transcript_store`"""

from __future__ import annotations

import sys

from sqlalchemy.exc import SQLAlchemyError

from libs.runtime.database import failed
from libs.runtime.metrics import export_counters, export_gauge
from libs.runtime.service import Service, run
from services.transcript_store.app import App, opened
from services.transcript_store.settings import Settings


async def main(service: Service, settings: Settings) -> None:
    """Open the database, serve until the process is asked to stop."""
    try:
        async with opened(settings.transcript_database_url) as sessions:
            app = App(service.bus, service.outbox, sessions, settings)
            consumer, watch = app.consumer, app.watch
            service.health.checks["database"] = lambda: None if consumer.database_works else "events are not stored"
            export_counters("callbus_store_events", "Events by what became of them", "end", lambda: consumer.counters)
            export_gauge("callbus_store_pending", "Events in the stream and not in the store", lambda: consumer.pending)
            export_gauge("callbus_store_open_calls", "Conversations without an end", lambda: watch.open_calls)
            export_counters("callbus_janitor", "Calls ended for nobody owned them", "kind", lambda: watch.counters)
            export_counters("callbus_store_queries", "Queries by verb", "verb", lambda: app.counters)
            await app.run(service.stopping, listening=service.is_up)
    except (SQLAlchemyError, ValueError, OSError) as problem:
        raise failed(settings.transcript_database_url, problem) from problem


if __name__ == "__main__":
    sys.exit(run("transcript_store", "ts", Settings, main))
