"""Composition root of the AI worker: `python -m services.ai_session`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from libs.runtime.metrics import export_counters, export_gauge
from libs.runtime.service import Service, run
from services.ai_session.backends.factory import BackendPlan, UnsupportedAgentError, plan_scripted
from services.ai_session.settings import Settings
from services.ai_session.worker import Worker

log = get_logger()


class Backends:
    """Chooses the backend of an offer's agent."""

    def __call__(self, offer: Offer) -> BackendPlan:
        """See `PlanBackend`."""
        match offer.agent.backend:
            case "scripted":
                return plan_scripted(offer)
            case other:
                raise UnsupportedAgentError(f"backend {other!r} is not available on this worker")


async def serve(service: Service, settings: Settings) -> None:
    """Take calls until the service is to stop, then hand them over."""
    worker = Worker(service.bus, service.outbox, Backends(), settings.worker_capacity)
    service.health.checks["draining"] = lambda: "draining" if worker.claims.draining else None
    export_counters("callbus_worker", "What the worker counted", "kind", lambda: worker.counters)
    export_counters("callbus_worker_tools", "Tool look-ups that failed", "kind", lambda: worker.tools.counters)
    export_gauge("callbus_worker_sessions", "Calls being served", lambda: worker.sessions)
    running = asyncio.create_task(worker.run(), name="worker")
    stopping = asyncio.create_task(service.stopping.wait(), name="stopping")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await worker.drain(settings.worker_drain_timeout_s)
    finally:
        running.cancel()
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await running


def main() -> int:
    """Run the worker; the exit code."""
    settings = Settings()
    return run("ai_session", "wk", settings, lambda service: serve(service, settings))


if __name__ == "__main__":
    sys.exit(main())
