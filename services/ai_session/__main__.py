"""Composition root of the AI worker: `python -m services.ai_session`."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress
from datetime import date

from libs.contracts.agent import AgentConfig
from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from libs.runtime.metrics import export_counters, export_gauge
from libs.runtime.service import Service, run
from services.ai_session.backends.factory import BackendPlan, UnsupportedAgentError, plan_scripted
from services.ai_session.backends.live import LiveEndpoint, plan_live
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.backends.realtime_plan import plan_realtime
from services.ai_session.costs import Models, ModelsFileError, load
from services.ai_session.settings import Settings
from services.ai_session.worker import Worker

log = get_logger()


class Backends:
    """Chooses the backend of an offer's agent."""

    def __init__(self, endpoint: Endpoint, live: LiveEndpoint | None = None) -> None:
        self._endpoint = endpoint
        self._live = live or LiveEndpoint.beside(endpoint)
        self._warned: set[str] = set()

    def __call__(self, offer: Offer) -> BackendPlan:
        """See `PlanBackend`."""
        match offer.agent.backend:
            case "scripted":
                return plan_scripted(offer)
            case "realtime":
                self._warn(offer.agent, self._endpoint.model)
                return plan_realtime(self._endpoint, offer)
            case "live":
                self._warn(offer.agent, self._live.model)
                return plan_live(self._live, offer)
            case other:
                raise UnsupportedAgentError(f"backend {other!r} is not available on this worker")

    def _warn(self, agent: AgentConfig, usual: str) -> None:
        """Of what an operator should know about the agent's models, once per model."""
        models, model = self._endpoint.models, agent.model or usual
        for name in {model, agent.transcription.model or models.transcription} - self._warned:
            self._warned.add(name)
            warn_of_shutdown(models, name, date.today())
        if agent.budget.per_call_usd is not None and not models.get(model).is_priced:
            log.warning(
                "the agent has a budget, but the price of its model is not known", agent=agent.name, model=model
            )


def endpoint_of(settings: Settings) -> Endpoint:
    """The speech API that the settings name.

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
    return Endpoint(settings.openai_base_url, key, settings.openai_model, models, tls=tls, mcp_tokens=tokens)


def warn_of_shutdown(models: Models, name: str, today: date) -> None:
    """Tell operators in time that their model ends."""
    ends = models.get(name).shutdown
    if ends is not None:
        log.warning("the model will be shut down", model=name, ends=ends.isoformat(), days=(ends - today).days)


async def serve(service: Service, settings: Settings) -> None:
    """Take calls until the service is to stop, then hand them over."""
    endpoint = endpoint_of(settings)
    live = LiveEndpoint.beside(endpoint, settings.live_model, settings.chat_model)
    warn_of_shutdown(endpoint.models, endpoint.model, date.today())
    worker = Worker(service.bus, service.outbox, Backends(endpoint, live), settings.worker_capacity)
    export_counters("callbus_worker_model", "What model connections counted", "kind", lambda: endpoint.counters)
    service.health.checks["draining"] = lambda: "draining" if worker.claims.draining else None
    export_counters("callbus_worker", "What the worker counted", "kind", lambda: worker.counters)
    export_counters("callbus_worker_tools", "Tool look-ups that failed", "kind", lambda: worker.tools.counters)
    export_gauge("callbus_worker_sessions", "Calls being served", lambda: worker.sessions)
    running = asyncio.create_task(worker.run(service.is_up), name="worker")
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
    return run("ai_session", "wk", Settings, serve)


if __name__ == "__main__":
    sys.exit(main())
