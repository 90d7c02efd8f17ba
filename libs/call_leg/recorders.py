"""Asking for a recorder (`libs.contracts.recording`)."""

from __future__ import annotations

import nats.errors

from libs.contracts import subjects
from libs.contracts.recording import RecordReply, RecordRequest
from libs.runtime.bus import Bus


async def ask_recorder(bus: Bus, request: RecordRequest, timeout_s: float) -> str | None:
    """Have one of the recorders take a call; why none did, None when one does."""
    try:
        data = await bus.request(subjects.rpc("recorder", "record"), request.to_json(), timeout_s)
        reply = RecordReply.model_validate_json(data)
    except nats.errors.NoRespondersError:
        return "no recorder is running"
    except (nats.errors.Error, ValueError, OSError) as error:
        return str(error) or type(error).__name__
    return None if reply.accepted else reply.reason
