"""Tools on the bus: any NATS micro endpoint `v1.*.tool.<name>` in any language.

A tool describes itself in its endpoint's metadata (`description`, `parameters` as JSON Schema text,
`idempotent`, `timeout_ms`), where workers find it by `$SRV.INFO`.
"""

from __future__ import annotations

from typing import Any

from pydantic import AwareDatetime

from libs.contracts.model import Message

OF_THE_SESSION = ("end_call", "hang_up", "transfer_call", "send_dtmf")
"""Tools about the call itself, which the worker carries out; they are not on the bus, and agents list them like any."""


class ToolRequest(Message):
    """One call of a tool; `tool_call_id` is the idempotency key, `deadline_at` absolute."""

    call: str
    org: str
    epoch: int
    tool_call_id: str
    name: str
    arguments: dict[str, Any] = {}
    deadline_at: AwareDatetime
    caller: str = ""
    agent: str = ""


class ToolReply(Message):
    """The result for the model (`output`, JSON), or one sentence that it can apologise with."""

    ok: bool
    output: Any = None
    error: str = ""


class ToolDescription(Message):
    """What the model is told of a tool."""

    name: str
    description: str
    parameters: dict[str, Any]
    idempotent: bool = False
    timeout_ms: int = 8000
