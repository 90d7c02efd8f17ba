"""Answers that always go out: what does not fit into a message, or cannot be sent, must not end a service."""

from __future__ import annotations

from typing import TypeVar

import nats.errors
from nats.aio.msg import Msg

from libs.contracts.rpc import RpcReply
from libs.contracts.tool import ToolReply
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()

R = TypeVar("R", RpcReply, ToolReply)


async def respond(bus: Bus, message: Msg, reply: R) -> R:
    """Send a reply, or why it cannot be sent; the reply that went out. Nobody is told who asked for no answer."""
    fitting, payload = _fitting(reply, bus.control.max_payload)
    if message.reply:
        try:
            await message.respond(payload)
        except (nats.errors.Error, OSError) as problem:
            log.warning("an answer was not sent", subject=message.subject, problem=str(problem))
    return fitting


def _fitting(reply: R, most_bytes: int) -> tuple[R, bytes]:
    try:
        payload = reply.to_json()
        if len(payload) <= most_bytes:
            return reply, payload
        sentence = "the answer is too large: lower 'limit' or narrow the query"
        log.warning("an answer was too large", size_bytes=len(payload), most_bytes=most_bytes)
    except ValueError as problem:  # pydantic's PydanticSerializationError: text that is no UTF-8
        sentence = "the answer cannot be written as JSON"
        log.error("an answer was not JSON", problem=str(problem))
    refused = type(reply)(ok=False, error=sentence)
    return refused, refused.to_json()
