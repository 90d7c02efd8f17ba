"""The rehearsal server: one process's scenarios, faults and records behind the routes of ``http_*.py``.

In a test::

    async with Rehearsal.start() as rehearsal:
        client = AsyncOpenAI(api_key="any", base_url=rehearsal.base_url)
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from aiohttp import WSCloseCode, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from services.rehearsal.caller_clips import CallerClips
from services.rehearsal.faults import Endpoint, Fault, FaultError, FaultQueue, parse_fault
from services.rehearsal.ground_truth import Archive
from services.rehearsal.listening import Listener
from services.rehearsal.metrics import Metrics
from services.rehearsal.offered import Offered
from services.rehearsal.refusals import ApiError
from services.rehearsal.request_log import RequestLog
from services.rehearsal.scenario import Scenario, ScenarioSet, load_scenarios
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import CLIPS, Speech
from services.rehearsal.validation import warm_up

BUILT_IN_SCENARIOS = Path(__file__).parent / "scenarios"
LARGEST_BODY_BYTES = 25 * 1024 * 1024  # an upload's limit at the API
_ELEVENLABS = ("/v1/text-to-speech/", "/v1/voices")


class Rehearsal:
    """A running rehearsal server. Make one with ``Rehearsal.start``.

    The route groups share what is public here: ``take_faults``, ``new_id``, ``new_rng``, ``speech``,
    ``scenarios``, ``requests`` (the record), ``sockets`` (closed at shutdown) and ``stopping``.
    """

    def __init__(self, settings: RehearsalSettings, scenarios: ScenarioSet, speech: Speech) -> None:
        self.settings = settings
        self.scenarios = scenarios
        self.speech = speech
        self.listener = Listener(CallerClips(CLIPS / "caller"), scenarios)
        self.offered = Offered(settings.today or datetime.now(UTC).date(), settings.models)
        self.sessions = Archive()
        self.requests = RequestLog()
        self.metrics = Metrics()
        self.sockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self.stopping = asyncio.Event()
        self.port = 0
        self._faults = FaultQueue()
        self._numbers = itertools.count(1)
        self._ids = Random(settings.seed) if settings.seed is not None else None

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
        """Let the next ``count`` sessions or requests of the fault's endpoint suffer it."""
        self._faults.add(fault, count)

    def clear_faults(self) -> None:
        self._faults.clear()

    def pending_faults(self) -> list[tuple[Fault, int]]:
        return self._faults.pending()

    def take_faults(self, request: web.Request, endpoint: Endpoint, *, turn: int | None = None) -> list[Fault]:
        """What this request suffers: the faults in its URL, and the ordered ones whose turn it is.

        For HTTP ``turn`` is the caller's turn that the request is about; a session counts turns itself. Raises
        ApiError (400) when the URL's fault cannot be read.
        """
        try:
            named = [parse_fault(text, endpoint) for text in request.query.getall("fault", [])]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(map(str, first["loc"]))
            raise ApiError(400, f"fault: {path}: {first['msg']}", code="invalid_fault") from error
        except FaultError as error:
            raise ApiError(400, str(error), code="invalid_fault") from error
        return [*named, *self._faults.take(endpoint, turn)]

    def new_id(self, prefix: str) -> str:
        digits = f"{self._ids.getrandbits(80):020x}" if self._ids is not None else secrets.token_hex(10)
        return f"{prefix}_{digits}"

    def new_rng(self) -> Random:
        """The randomness of the next session or request; its own, so that they do not disturb each other."""
        number, seed = next(self._numbers), self.settings.seed
        return Random(f"{seed}/{number}") if seed is not None else Random()

    # -- application -----------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        from services.rehearsal.admin import admin_routes
        from services.rehearsal.http_chat import chat_routes
        from services.rehearsal.http_elevenlabs import elevenlabs_routes
        from services.rehearsal.http_elevenlabs_stream import stream_input_routes
        from services.rehearsal.http_live import live_routes
        from services.rehearsal.http_realtime import realtime_routes
        from services.rehearsal.http_speech import speech_routes
        from services.rehearsal.http_transcriptions import transcription_routes

        application = web.Application(
            middlewares=[_answer_refusals, self._authorise], client_max_size=LARGEST_BODY_BYTES
        )
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._healthz),  # it listens, so it is ready
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                *realtime_routes(self),
                *live_routes(self),
                *chat_routes(self),
                *transcription_routes(self),
                *speech_routes(self),
                *elevenlabs_routes(self),
                *stream_input_routes(self),
                *admin_routes(self),
            ]
        )
        application.on_shutdown.append(self._shut_down)
        return application

    async def _shut_down(self, _: web.Application) -> None:
        self.stopping.set()
        for socket in list(self.sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"server shutdown")

    @web.middleware
    async def _authorise(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith("/v1/") and not request.path.startswith(_ELEVENLABS):
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            wanted = self.settings.api_key
            problem = None
            if scheme != "Bearer" or not key:
                problem = ApiError(401, "Missing bearer authentication in header")
            elif wanted is not None and not secrets.compare_digest(key, wanted.get_secret_value()):
                problem = ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
            if problem is not None:
                self.metrics.refused.labels("401").inc()
                raise problem
        return await handler(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.offered.listing())})


@web.middleware
async def _answer_refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as refusal:
        return refusal.response()
    except web.HTTPException as error:
        if not request.path.startswith("/v1/") or error.status < 400:
            raise
        # The framework's own refusals (no such route, body too large) in the API's shape.
        method = f"Invalid URL ({request.method} {request.path})" if error.status in (404, 405) else error.reason
        if error.status == 413:
            method = f"Maximum content size limit ({LARGEST_BODY_BYTES}) exceeded"
        return ApiError(error.status, method).response()
