"""``/v1/realtime``: the upgrade to a WebSocket, and its refusals."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from services.rehearsal.connection import Connection
from services.rehearsal.faults import Fault, FaultPlan
from services.rehearsal.realtime import RealtimeSession
from services.rehearsal.refusals import ApiError, rehearsed_refusal
from services.rehearsal.session_options import SessionOptions
from services.rehearsal.validation import validate_server_event

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_log = structlog.get_logger()


def realtime_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    async def upgrade(request: web.Request) -> web.StreamResponse:
        return await _upgrade(rehearsal, request)

    return [web.get("/v1/realtime", upgrade)]


async def _upgrade(rehearsal: Rehearsal, request: web.Request) -> web.StreamResponse:
    plan = FaultPlan(rehearsal.take_faults(request, "realtime"), started_at=asyncio.get_running_loop().time())
    try:
        await refuse_or_hang(rehearsal, plan)
        model = request.query.get("model", "")
        # With a model it is a conversation, which then refuses a session.update of the other type.
        transcription = request.query.get("intent") == "transcription" and not model
        if not model and not transcription:
            raise ApiError(400, "You must provide a model parameter.", code="missing_model")
    except ApiError as refusal:
        rehearsal.metrics.refused.labels(str(refusal.status)).inc()
        raise
    plan.add([Fault(kind="close", code=1001, after_ms=rehearsal.settings.session_limit_s * 1000)])
    socket = web.WebSocketResponse(autoping=not plan.has("no_pong"), compress=False, max_msg_size=2**25)
    await socket.prepare(request)
    rehearsal.sockets.add(socket)
    await _serve(rehearsal, request, socket, _session(rehearsal, model, transcription, request, plan))
    return socket


async def refuse_or_hang(rehearsal: Rehearsal, plan: FaultPlan) -> None:
    """What strikes before a WebSocket is accepted. Raises ApiError."""
    refuse = plan.take("refuse")
    if refuse is not None:
        raise rehearsed_refusal(refuse.status, refuse.retry_after_s, refuse.error_code_or_none)
    if plan.take("hang_upgrade") is not None or plan.take("hang") is not None:
        await rehearsal.stopping.wait()
        raise ApiError(503, "server shutdown")


def _session(
    rehearsal: Rehearsal, model: str, transcription: bool, request: web.Request, plan: FaultPlan
) -> RealtimeSession:
    settings = rehearsal.settings
    options = SessionOptions(
        session_id=rehearsal.new_id("sess"),
        model=model,
        session_type="transcription" if transcription else "realtime",
        expires_at=int(time.time() + settings.session_limit_s),
        scenario=request.query.get("scenario"),
        pace=settings.pace,
        transcription_delay_ms=settings.transcription_delay_ms,
    )
    return RealtimeSession(
        options,
        scenarios=rehearsal.scenarios,
        voice=rehearsal.speech,
        new_id=rehearsal.new_id,
        rng=rehearsal.new_rng(),
        faults=plan,
        check=validate_server_event if settings.self_check else None,
        listener=rehearsal.listener if transcription else None,
    )


async def _serve(
    rehearsal: Rehearsal, request: web.Request, socket: web.WebSocketResponse, session: RealtimeSession
) -> None:
    truth = session.truth
    rehearsal.sessions.add(truth)
    rehearsal.metrics.sessions.inc()
    log = _log.bind(session_id=truth.session_id)
    log.info("session opened", model=truth.model)
    with rehearsal.metrics.active.track_inprogress():
        try:
            await Connection(request, socket, session).run()
        finally:
            rehearsal.metrics.count(truth)
            log.info(
                "session closed",
                scenario=truth.scenario,
                closed=truth.closed,
                turns=len(truth.turns),
                responses=len(truth.responses),
                client_errors=len(truth.client_errors),
            )
