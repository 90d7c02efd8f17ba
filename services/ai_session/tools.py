"""Tools on the bus: found by `$SRV.INFO`, called by request-reply with an absolute deadline."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from libs.contracts import subjects
from libs.contracts.offer import Offer
from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.ai_session.history import render

log = get_logger()

DISCOVERY_SUBJECT = "$SRV.INFO"
DISCOVERY_WAIT_S = 0.25
REFRESH_S = 30.0
RETRY_PAUSE_S = 0.3  # before an idempotent tool is asked again
REFRESH_MISSING_S = 2.0  # not every call of an agent with a missing tool asks again
PROMPT_TOOL_TIMEOUT_S = 1.5
_PLACEHOLDER = re.compile(r"\{\{\s*tool:([A-Za-z0-9_-]+)\s*\}\}")


def descriptions_in(info: bytes) -> list[ToolDescription]:
    """The tools that one `$SRV.INFO` answer names; endpoints that are no tools, or describe none, are skipped."""
    try:
        endpoints = json.loads(info)["endpoints"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for endpoint in endpoints if isinstance(endpoints, list) else []:
        tool = _description(endpoint)
        if tool is not None:
            found.append(tool)
    return found


def _description(endpoint: Any) -> ToolDescription | None:
    try:
        _, _, marker, name = endpoint["subject"].split(".")
        metadata = endpoint.get("metadata") or {}
        if marker != "tool" or "description" not in metadata:
            return None
        return ToolDescription(
            name=name,
            description=metadata["description"],
            parameters=json.loads(metadata.get("parameters") or '{"type": "object", "properties": {}}'),
            idempotent=str(metadata.get("idempotent", "")).lower() == "true",
            timeout_ms=int(metadata.get("timeout_ms") or 8000),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None


class ToolDirectory:
    """Which tools exist, refreshed in the background; shared by all calls of the worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tools: dict[str, ToolDescription] = {}
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            stop_if_cancelled()
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def refresh(self) -> None:
        """Ask all micro services who they are and take what answers within a quarter of a second."""
        async with self._refreshing:
            await self._look_up()

    async def _look_up(self) -> None:
        found: dict[str, ToolDescription] = {}

        async def answer(msg: Msg) -> None:
            for tool in descriptions_in(msg.data):
                found[tool.name] = tool

        inbox = self._bus.control.new_inbox()
        try:
            subscription = await self._bus.control.subscribe(inbox, cb=answer)
            await self._bus.control.publish(DISCOVERY_SUBJECT, b"", reply=inbox)
            await asyncio.sleep(DISCOVERY_WAIT_S)
            await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            self.counters["discovery_failed"] += 1
            log.warning("tools could not be looked up", problem=str(error) or type(error).__name__)
            return
        self.counters["discoveries"] += 1
        if found:  # a broker that has just restarted answers with nobody: the old list serves meanwhile
            self._tools = found
        self._refreshed_at = asyncio.get_running_loop().time()

    async def descriptions(self, names: Iterable[str]) -> list[ToolDescription]:
        """Descriptions of an agent's tools; one that nobody offers is left out, with a log line."""
        wanted = [name for name in names if name != HANG_UP.name]
        now = asyncio.get_running_loop().time()
        stale = not self._tools or now - self._refreshed_at > REFRESH_MISSING_S
        if stale and any(name not in self._tools for name in wanted):
            async with self._refreshing:
                if self._refreshed_at < now:  # else another call has asked while this one waited
                    await self._look_up()
        missing = [name for name in wanted if name not in self._tools]
        if missing:
            self.counters["missing"] += len(missing)
            log.warning("tools of the agent are not on the bus", tools=missing)
        found = [self._tools[name] for name in wanted if name in self._tools]
        return [*found, HANG_UP] if HANG_UP.name in set(names) else found

    def timeout_s(self, name: str, most_s: float) -> float:
        """How long a call of this tool may take."""
        tool = self._tools.get(name)
        return min(most_s, tool.timeout_ms / 1000) if tool is not None else most_s

    def is_idempotent(self, name: str) -> bool:
        """Whether a tool may be asked twice for the same thing."""
        tool = self._tools.get(name)
        return tool is not None and tool.idempotent


HANG_UP = ToolDescription(
    name="hang_up",
    description="End the call. Say goodbye first; the line closes when your words have been heard.",
    parameters={"type": "object", "properties": {}},
)


class ToolCaller:
    """Calls tools for one call, within the agent's allow-list."""

    def __init__(self, offer: Offer, bus: Bus, directory: ToolDirectory) -> None:
        self._offer = offer
        self._bus = bus
        self._directory = directory

    async def call(self, tool_call_id: str, name: str, arguments: dict[str, Any] | None) -> ToolReply:
        """Call a tool that the model asked for; every failure is a reply that the model can apologise with."""
        if name not in self._offer.agent.tools:
            return ToolReply(ok=False, error=f"There is no tool {name!r}.")
        if name == HANG_UP.name:  # the session does that itself
            return ToolReply(ok=True)
        if arguments is None:
            error = "The arguments were not a JSON object. Call the tool again, correctly."
            return ToolReply(ok=False, error=error)
        most_s = self._offer.agent.limits.tool_timeout_s
        return await self._request(tool_call_id, name, arguments, self._directory.timeout_s(name, most_s))

    async def _request(self, tool_call_id: str, name: str, arguments: dict[str, Any], timeout_s: float) -> ToolReply:
        offer = self._offer
        request = ToolRequest(
            call=offer.call,
            org=offer.org,
            epoch=offer.epoch,
            tool_call_id=tool_call_id,
            name=name,
            arguments=arguments,
            deadline_at=datetime.now(UTC) + timedelta(seconds=timeout_s),
            caller=offer.caller,
            agent=offer.agent.name,
        )
        try:
            subject = subjects.tool(offer.org, name)
            reply = await self._ask(subject, request, timeout_s)
            return ToolReply.model_validate_json(reply)
        except nats.errors.NoRespondersError:
            return ToolReply(ok=False, error=f"The tool {name} is not available at the moment.")
        except (nats.errors.TimeoutError, TimeoutError):
            return ToolReply(ok=False, error=f"The tool {name} did not answer in time; its result is unknown.")
        except (nats.errors.Error, OSError, ValueError) as error:
            log.warning("tool call failed", tool=name, problem=str(error))
            return ToolReply(ok=False, error=f"The tool {name} failed.")

    async def _ask(self, subject: str, request: ToolRequest, timeout_s: float) -> bytes:
        """One request; a second one of a tool that may be asked twice: its `tool_call_id` stays the same."""
        try:
            return await self._bus.request(subject, request.to_json(), timeout_s)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError, TimeoutError):
            if not self._directory.is_idempotent(request.name):
                raise
        await asyncio.sleep(RETRY_PAUSE_S)
        again = request.model_copy(update={"deadline_at": datetime.now(UTC) + timedelta(seconds=timeout_s)})
        return await self._bus.request(subject, again.to_json(), timeout_s)

    async def fill(self, prompt: str) -> str:
        """Replace `{{tool:NAME}}` in a prompt by the tool's result; `(unknown)` when it gives none in time."""
        names = list(dict.fromkeys(_PLACEHOLDER.findall(prompt)))
        texts = dict(zip(names, await asyncio.gather(*map(self._prompt_text, names)), strict=True))
        return _PLACEHOLDER.sub(lambda match: texts[match[1]], prompt)

    async def _prompt_text(self, name: str) -> str:
        problem = f"no answer within {PROMPT_TOOL_TIMEOUT_S:g} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(PROMPT_TOOL_TIMEOUT_S):  # a second attempt included
                reply = await self._request(f"prompt-{name}", name, {}, PROMPT_TOOL_TIMEOUT_S)
                if reply.ok:
                    return as_prompt(reply.output)
                problem = reply.error
        log.warning("a tool in the prompt gave nothing", tool=name, problem=problem)
        return "(unknown)"


def as_prompt(output: Any) -> str:
    """A tool's result as words of a prompt: a list of texts becomes a comma-separated one, else JSON."""
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if isinstance(output, list) and all(isinstance(entry, str) for entry in output):
        return ", ".join(output)
    return render(output)


def parse_arguments(text: str) -> dict[str, Any] | None:
    """The model's arguments; None when they are not a JSON object."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):  # the latter when nested thousands of levels deep
        return None
    return arguments if isinstance(arguments, dict) else None
