"""Composition root of the AI worker: `python -m services.ai_session`."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress
from dataclasses import replace

from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from libs.runtime.service import Service, run
from services.ai_session.backends.factory import BackendPlan, UnsupportedAgentError, plan_scripted
from services.ai_session.backends.live import LiveEndpoint, plan_live
from services.ai_session.backends.pipeline import plan_pipeline
from services.ai_session.backends.pipeline_stages import Stages, stages_of
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_plan import plan_realtime
from services.ai_session.backends.realtime_spares import SpareConnections
from services.ai_session.costs import ModelsFileError, load
from services.ai_session.exporting import export, export_models
from services.ai_session.model_listing import WatchedPlans
from services.ai_session.model_watch import Defaults
from services.ai_session.settings import Settings
from services.ai_session.voices.ahead import SpeechAhead
from services.ai_session.voices.opening import open_voices
from services.ai_session.worker import Worker

log = get_logger()


class Backends:
    """Chooses the backend of an offer's agent."""

    def __init__(self, endpoint: Endpoint, live: LiveEndpoint | None = None, pipeline: Stages | None = None) -> None:
        self._endpoint = endpoint
        self._live = live or LiveEndpoint.beside(endpoint)
        self._pipeline = pipeline

    def __call__(self, offer: Offer) -> BackendPlan:
        """See `PlanBackend`."""
        match offer.agent.backend:
            case "scripted":
                return plan_scripted(offer)
            case "realtime":
                return plan_realtime(self._endpoint, offer)
            case "live":
                return plan_live(self._live, offer)
            case "pipeline" if self._pipeline is not None:
                return plan_pipeline(self._pipeline, offer)
            case other:
                raise UnsupportedAgentError(f"backend {other!r} is not available on this worker")


def endpoint_of(settings: Settings) -> tuple[Endpoint, SpareConnections]:
    """The speech API that the settings name, and the connections kept ready to it.

    Raises:
        ConnectionError: the table of models cannot be read.
    """
    try:
        models = load(settings.models_file)
    except ModelsFileError as error:
        raise ConnectionError(str(error)) from None
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key is not None else ""
    secure = settings.openai_base_url.startswith(("https:", "wss:"))
    tls = ssl.create_default_context() if secure else None  # made once: it takes 20 ms
    tokens = {name: token.get_secret_value() for name, token in settings.mcp_tokens.items()}
    endpoint = Endpoint(
        settings.openai_base_url,
        key,
        settings.openai_model,
        models,
        tls=tls,
        mcp_tokens=tokens,
        session_max_s=settings.session_max_s,
    )
    spares = SpareConnections(endpoint, settings.worker_spare_sessions)
    return replace(endpoint, spares=spares), spares


async def serve(service: Service, settings: Settings) -> None:
    """Take calls until the service is to stop, then hand them over."""
    endpoint, spares = endpoint_of(settings)
    live = LiveEndpoint.beside(endpoint, settings.live_model, settings.chat_model)
    voices = open_voices(settings, endpoint)
    pipeline = stages_of(settings, endpoint.models, voices)
    backends = Backends(endpoint, live, pipeline)
    plans = WatchedPlans(backends, endpoint.models, Defaults.of(settings, endpoint.models))
    export_models(plans, spares)
    worker = Worker(service.bus, service.outbox, plans, settings.worker_capacity, SpeechAhead(voices))
    export(worker, endpoint, pipeline, voices)
    service.health.checks["draining"] = lambda: "draining" if worker.claims.draining else None
    watching = asyncio.create_task(plans.run(endpoint.base_url, endpoint.api_key, endpoint.tls), name="models")
    running = asyncio.create_task(worker.run(lambda: service.is_up(lambda: not worker.sessions)), name="worker")
    sparing = asyncio.create_task(spares.run(), name="spares")
    stopping = asyncio.create_task(service.stopping.wait(), name="stopping")
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        spares.close()
        if not running.done():
            await worker.drain(settings.worker_drain_timeout_s)
    finally:
        for task in (running, stopping, watching, sparing):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await pipeline.close()
        await voices.close()


def main() -> int:
    """Run the worker; the exit code."""
    return run("ai_session", "wk", Settings, serve)


if __name__ == "__main__":
    sys.exit(main())
