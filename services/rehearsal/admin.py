"""Endpoints for tests and the curious: faults to come, and what really happened. For this machine, unless told else."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import Field, ValidationError

from libs.audio.wav import write_wav
from services.rehearsal.faults import Fault
from services.rehearsal.speech import RATE_HZ

if TYPE_CHECKING:
    from services.rehearsal.server import Rehearsal

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FaultOrder(Fault):
    """A fault and for how many of the next sessions or requests."""

    count: int = Field(default=1, ge=1)


def admin_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    """``/rehearsal/faults``, ``/rehearsal/sessions``, ``/rehearsal/requests`` and ``/rehearsal/conversations``."""

    async def order_fault(request: web.Request) -> web.Response:
        try:
            order = FaultOrder.model_validate(await request.json())
        except json.JSONDecodeError as error:
            return web.json_response({"error": f"not JSON: {error}"}, status=400)
        except ValidationError as error:
            return web.json_response({"error": json.loads(error.json(include_url=False))}, status=400)
        rehearsal.inject(Fault.model_validate(order.model_dump(exclude={"count"})), order.count)
        return await list_faults(request)

    async def list_faults(_: web.Request) -> web.Response:
        pending = [
            {**fault.model_dump(exclude_defaults=True), "count": count} for fault, count in rehearsal.pending_faults()
        ]
        return web.json_response({"faults": pending})

    async def clear_faults(request: web.Request) -> web.Response:
        rehearsal.clear_faults()
        return await list_faults(request)

    async def list_sessions(_: web.Request) -> web.Response:
        return web.json_response({"sessions": [truth.as_json() for truth in rehearsal.sessions.all()]})

    async def one_session(request: web.Request) -> web.Response:
        truth = rehearsal.sessions.get(request.match_info["session_id"])
        if truth is None:
            raise web.HTTPNotFound(text="no such session")
        return web.json_response(truth.as_json())

    async def item_audio(request: web.Request) -> web.Response:
        truth = rehearsal.sessions.get(request.match_info["session_id"])
        item = truth.find(request.match_info["item_id"]) if truth is not None else None
        if item is None or not item.audio:
            raise web.HTTPNotFound(text="no such item, or it has no audio")
        return web.Response(body=write_wav(item.audio, RATE_HZ), content_type="audio/wav")

    return [
        web.post("/rehearsal/faults", _guarded(rehearsal, order_fault)),
        web.get("/rehearsal/faults", _guarded(rehearsal, list_faults)),
        web.delete("/rehearsal/faults", _guarded(rehearsal, clear_faults)),
        web.get("/rehearsal/sessions", _guarded(rehearsal, list_sessions)),
        web.get("/rehearsal/sessions/{session_id}", _guarded(rehearsal, one_session)),
        web.get("/rehearsal/sessions/{session_id}/items/{item_id}.wav", _guarded(rehearsal, item_audio)),
        *_request_routes(rehearsal),
    ]


def _request_routes(rehearsal: Rehearsal) -> list[web.RouteDef]:
    async def list_requests(request: web.Request) -> web.Response:
        records = rehearsal.requests.all(request.query.get("endpoint"))
        return web.json_response({"requests": [record.as_json() for record in records]})

    async def forget_requests(request: web.Request) -> web.Response:
        rehearsal.requests.clear()
        return await list_requests(request)

    async def list_conversations(_: web.Request) -> web.Response:
        return web.json_response({"conversations": [view.as_json() for view in rehearsal.requests.conversations()]})

    return [
        web.get("/rehearsal/requests", _guarded(rehearsal, list_requests)),
        web.delete("/rehearsal/requests", _guarded(rehearsal, forget_requests)),
        web.get("/rehearsal/conversations", _guarded(rehearsal, list_conversations)),
    ]


def _guarded(rehearsal: Rehearsal, handler: _Handler) -> _Handler:
    networks = rehearsal.settings.admin_networks

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            peer = ipaddress.ip_address(request.remote or "")
        except ValueError:
            peer = None
        if peer is None or not any(peer in network for network in networks):
            raise web.HTTPForbidden(text="the admin endpoints answer REHEARSAL_ADMIN_NETWORKS only")
        return await handler(request)

    return guarded
