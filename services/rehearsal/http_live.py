"""``/v1/live/sessions``: the upgrade to a WebSocket of the Live API, and its refusals."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from services.rehearsal.connection import Connection
from services.rehearsal.faults import FaultPlan
from services.rehearsal.http_realtime import refuse_or_hang
from services.rehearsal.live import LiveOptions, LiveSession
from services.rehearsal.live_validation import validate_live_server_event, warm_up_live
from services.rehearsal.refusals import ApiError

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_log = structlog.get_logger()
_QUERY = frozenset({"scenario", "fault"})  # the rehearsal's own; the API takes none


def live_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    warm_up_live()

    async def upgrade(request: web.Request) -> web.StreamResponse:
        return await _upgrade(rehearsal, request)

    return [web.get("/v1/live/sessions", upgrade)]


async def _upgrade(rehearsal: Rehearsal, request: web.Request) -> web.StreamResponse:
    plan = FaultPlan(rehearsal.take_faults(request, "live"), started_at=asyncio.get_running_loop().time())
    try:
        await refuse_or_hang(rehearsal, plan)
        unknown = request.query.keys() - _QUERY
        if unknown:  # the model goes into session.start (API reference, live.connect: "without query parameters")
            raise ApiError(400, f"Unknown parameter: '{min(unknown)}'.", code="unknown_parameter", param=min(unknown))
    except ApiError as refusal:
        rehearsal.metrics.refused.labels(str(refusal.status)).inc()
        raise
    socket = web.WebSocketResponse(autoping=not plan.has("no_pong"), compress=False, max_msg_size=2**25)
    await socket.prepare(request)
    rehearsal.sockets.add(socket)
    await _serve(rehearsal, request, socket, plan)
    return socket


async def _serve(rehearsal: Rehearsal, request: web.Request, socket: web.WebSocketResponse, plan: FaultPlan) -> None:
    settings = rehearsal.settings
    options = LiveOptions(
        session_id=rehearsal.new_id("live"),
        expires_at=int(time.time() + settings.session_limit_s),
        limit_s=settings.session_limit_s,
        scenario=request.query.get("scenario"),
        pace=settings.pace,
        transcription_delay_ms=settings.transcription_delay_ms,
    )
    session = LiveSession(
        options,
        scenarios=rehearsal.scenarios,
        voice=rehearsal.speech,
        new_id=rehearsal.new_id,
        rng=rehearsal.new_rng(),
        faults=plan,
        check=validate_live_server_event if settings.self_check else None,
    )
    truth = session.truth
    rehearsal.sessions.add(truth)
    rehearsal.metrics.sessions.inc()
    log = _log.bind(session_id=truth.session_id)
    with rehearsal.metrics.active.track_inprogress():
        try:
            await Connection(request, socket, session).run()
        finally:
            rehearsal.metrics.count(truth)
            log.info("live session closed", scenario=truth.scenario, closed=truth.closed, turns=len(truth.turns))
