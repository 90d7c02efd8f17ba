"""Tool calls of one session: on the record, carried out, and their outcome handed to the model that asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from libs.contracts.events import ToolCalled, ToolReturned
from libs.contracts.tool import ToolReply
from services.ai_session import call_tools
from services.ai_session.actions import RunTool, Why
from services.ai_session.bridge import Bridge
from services.ai_session.history import render
from services.ai_session.journal import Journal
from services.ai_session.leg_link import LegLink
from services.ai_session.model_link import ModelLink
from services.ai_session.settlement import Settlement
from services.ai_session.tools import ToolCaller, parse_arguments


class ToolRuns:
    """One per session; `run` is a task of its own for each call of a tool."""

    def __init__(
        self,
        caller: ToolCaller,
        journal: Journal,
        bridge: Bridge,
        model: ModelLink,
        settlement: Settlement,
        counters: Counter[str],
    ) -> None:
        self._caller, self._journal, self._bridge, self._model = caller, journal, bridge, model
        self._settlement, self._counters = settlement, counters
        self._loop = asyncio.get_running_loop()
        offer = caller.offer
        self.of_call = call_tools.CallTools(offer.agent, offer.epoch, LegLink(offer, caller.bus), bridge)

    async def run(self, request: RunTool) -> None:
        """Call one tool and hand its output to the model; tools of one response run side by side."""
        began, asked_by = self._loop.time(), self._model.backend
        arguments = parse_arguments(request.arguments)
        self._journal.put(ToolCalled, tool_call_id=request.tool_call_id, name=request.name, arguments=arguments or {})
        reply = await self._carry_out(request, arguments)
        ok, output = reply.ok, reply.output if reply.ok else {"error": reply.error}
        now = self._loop.time()
        took_ms = (now - began) * 1000
        self._counters["tool_calls" if ok else "tool_failures"] += 1
        self._journal.put(
            ToolReturned, tool_call_id=request.tool_call_id, name=request.name, ok=ok, output=output, took_ms=took_ms
        )
        self._bridge.tool_done(now)
        if request.name in call_tools.ENDS_CALL and ok:
            self._bridge.do(self._bridge.turn.end_politely(Why.AGENT, now), now)
        elif asked_by is not None and asked_by is self._model.backend and not self._settlement.is_running:
            asked_by.tool_result(request.tool_call_id, render(output))  # a new one was told "unknown" in its replay
        self._settlement.tool_done(request.tool_call_id)

    async def _carry_out(self, request: RunTool, arguments: dict[str, Any] | None) -> ToolReply:
        is_ours = request.name in call_tools.NAMES and request.name in self._caller.offer.agent.tools
        if is_ours and (arguments is not None or request.name in call_tools.ENDS_CALL):
            return await self.of_call.call(request.name, arguments or {})
        return await self._caller.call(request.tool_call_id, request.name, arguments)
