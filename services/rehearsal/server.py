"""HTTP and WebSocket endpoints of the rehearsal server.

In a test::

    async with Rehearsal.start() as rehearsal:
        client = AsyncOpenAI(api_key="any", base_url=rehearsal.base_url)
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import structlog
from aiohttp import WSCloseCode, web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import ValidationError

from services.rehearsal.connection import Connection
from services.rehearsal.faults import Fault, FaultPlan, parse_fault
from services.rehearsal.ground_truth import Archive, GroundTruth
from services.rehearsal.realtime import RealtimeSession, SessionOptions
from services.rehearsal.scenario import Scenario, ScenarioSet, load_scenarios
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import Speech
from services.rehearsal.validation import validate_server_event, warm_up

BUILT_IN_SCENARIOS = Path(__file__).parent / "scenarios"
_MODELS = {
    "gpt-realtime-2.1": None,
    "gpt-realtime-2.1-mini": None,
    "gpt-realtime": "2027-01-20",
    "gpt-transcribe": None,
    "gpt-4o-mini-tts": "2027-01-06",
}
_log = structlog.get_logger()


class _Metrics:
    """Counters of one server; a registry of its own, so that tests can run several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.active = Gauge("rehearsal_sessions_active", "Sessions open now", registry=self.registry)
        self.sessions = Counter("rehearsal_sessions", "Sessions opened", registry=self.registry)
        self.refused = Counter("rehearsal_upgrades_refused", "Upgrades refused", ["status"], registry=self.registry)
        self.client_errors = Counter(
            "rehearsal_client_errors", "Events answered with an error", ["code"], registry=self.registry
        )
        self.responses = Counter("rehearsal_responses", "Responses by status", ["status"], registry=self.registry)
        self.appended = Counter("rehearsal_appended_audio_seconds", "Audio received", registry=self.registry)

    def count(self, truth: GroundTruth) -> None:
        self.appended.inc(truth.appended_ms / 1000)
        for error in truth.client_errors:
            self.client_errors.labels(error["code"] or "none").inc()
        for response in truth.responses:
            self.responses.labels(response["status"]).inc()


class Rehearsal:
    """A running rehearsal server. Make one with ``Rehearsal.start``."""

    def __init__(self, settings: RehearsalSettings, scenarios: ScenarioSet, speech: Speech) -> None:
        self.settings = settings
        self.scenarios = scenarios
        self.sessions = Archive()
        self.metrics = _Metrics()
        self.port = 0
        self._speech = speech
        self._pending: list[list[Any]] = []
        self._numbers = itertools.count(1)
        self._ids = Random(settings.seed) if settings.seed is not None else None
        self._sockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._stopping = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        settings: RehearsalSettings | None = None,
        *,
        scenarios: list[Scenario] | None = None,
        speech: Speech | None = None,
    ) -> AsyncIterator[Rehearsal]:
        """Listen until the block is left. ``scenarios`` are added to those the settings name.

        Raises ScenarioError for a scenario file that cannot be used, OSError when the port is taken.
        """
        settings = settings or RehearsalSettings()
        loaded = [one for path in (BUILT_IN_SCENARIOS, *settings.scenarios) for one in load_scenarios(path)]
        chosen = ScenarioSet([*loaded, *(scenarios or [])], settings.default_scenario)
        warm_up()
        rehearsal = cls(settings, chosen, speech or Speech())
        # Handlers that hang on purpose must not hold up the shutdown.
        runner = web.AppRunner(rehearsal._application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port)
            await site.start()
            rehearsal.port = runner.addresses[0][1]
            yield rehearsal
        finally:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """``http://host:port`` for health, metrics and the admin endpoints."""
        return f"http://{self.settings.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What ``OPENAI_BASE_URL`` should be."""
        return f"{self.url}/v1"

    def inject(self, fault: Fault, count: int = 1) -> None:
        """Let the next ``count`` sessions suffer ``fault``."""
        self._pending.append([fault, count])

    def clear_faults(self) -> None:
        self._pending.clear()

    def pending_faults(self) -> list[tuple[Fault, int]]:
        return [(fault, count) for fault, count in self._pending]

    # -- application -----------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        from services.rehearsal.admin import admin_routes

        application = web.Application(middlewares=[self._authorise])
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._healthz),  # it listens, so it is ready
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.get("/v1/realtime", self._realtime),
                *admin_routes(self),
            ]
        )
        application.on_shutdown.append(self._shut_down)
        return application

    async def _shut_down(self, _: web.Application) -> None:
        self._stopping.set()
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server shutdown")

    @web.middleware
    async def _authorise(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith("/v1/"):
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            wanted = self.settings.api_key
            if scheme != "Bearer" or not key:
                return self._refusal(401, "Missing bearer authentication in header", None)
            if wanted is not None and not secrets.compare_digest(key, wanted.get_secret_value()):
                return self._refusal(401, "Incorrect API key provided.", "invalid_api_key")
        return await handler(request)

    def _refusal(self, status: int, message: str, code: str | None) -> web.Response:
        self.metrics.refused.labels(str(status)).inc()
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return web.json_response({"error": error}, status=status)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.metrics.registry), content_type="text/plain")

    async def _models(self, _: web.Request) -> web.Response:
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "rehearsal", "shutdown_date": date}
            for name, date in _MODELS.items()
        ]
        return web.json_response({"object": "list", "data": models})

    # -- realtime --------------------------------------------------------------------------------------

    async def _realtime(self, request: web.Request) -> web.StreamResponse:
        try:
            faults = self._faults_of(request)
        except ValueError as error:
            return self._refusal(400, str(error), "invalid_fault")
        plan = FaultPlan(faults, started_at=asyncio.get_running_loop().time())
        refuse = plan.take("refuse")
        if refuse is not None:
            return self._refusal(refuse.status, "A rehearsed refusal.", _refusal_code(refuse.status))
        if plan.take("hang_upgrade") is not None:
            await self._stopping.wait()
            return self._refusal(503, "server shutdown", None)
        transcription = request.query.get("intent") == "transcription"
        model = request.query.get("model", "")
        if not model and not transcription:
            return self._refusal(400, "You must provide a model parameter.", "missing_model")
        plan.add([Fault(kind="close", code=1001, after_ms=self.settings.session_limit_s * 1000)])
        socket = web.WebSocketResponse(autoping=not plan.has("no_pong"), compress=False, max_msg_size=2**25)
        await socket.prepare(request)
        self._sockets.add(socket)
        await self._serve(request, socket, self._session(model, transcription, request, plan))
        return socket

    def _faults_of(self, request: web.Request) -> list[Fault]:
        try:
            faults = [parse_fault(text) for text in request.query.getall("fault", [])]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"fault: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        for entry in self._pending:
            faults.append(entry[0])
            entry[1] -= 1
        self._pending = [entry for entry in self._pending if entry[1] > 0]
        return faults

    def _session(self, model: str, transcription: bool, request: web.Request, plan: FaultPlan) -> RealtimeSession:
        seed = self.settings.seed
        number = next(self._numbers)
        options = SessionOptions(
            session_id=self._new_id("sess"),
            model=model,
            session_type="transcription" if transcription else "realtime",
            expires_at=int(time.time() + self.settings.session_limit_s),
            scenario=request.query.get("scenario"),
            pace=self.settings.pace,
            transcription_delay_ms=self.settings.transcription_delay_ms,
        )
        return RealtimeSession(
            options,
            scenarios=self.scenarios,
            voice=self._speech,
            new_id=self._new_id,
            rng=Random(f"{seed}/{number}") if seed is not None else Random(),
            faults=plan,
            check=validate_server_event if self.settings.self_check else None,
        )

    def _new_id(self, prefix: str) -> str:
        digits = f"{self._ids.getrandbits(80):020x}" if self._ids is not None else secrets.token_hex(10)
        return f"{prefix}_{digits}"

    async def _serve(self, request: web.Request, socket: web.WebSocketResponse, session: RealtimeSession) -> None:
        truth = session.truth
        self.sessions.add(truth)
        self.metrics.sessions.inc()
        log = _log.bind(session_id=truth.session_id)
        log.info("session opened", model=truth.model)
        with self.metrics.active.track_inprogress():
            try:
                await Connection(request, socket, session).run()
            finally:
                self.metrics.count(truth)
                log.info(
                    "session closed",
                    scenario=truth.scenario,
                    closed=truth.closed,
                    turns=len(truth.turns),
                    responses=len(truth.responses),
                    client_errors=len(truth.client_errors),
                )


def _refusal_code(status: int) -> str:
    return {401: "invalid_api_key", 403: "unsupported_country_region_territory", 429: "insufficient_quota"}.get(
        status, "server_error"
    )
