"""Tools on the bus: found by `$SRV.INFO`, called by request-reply with an absolute deadline."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.ids import check_token
from libs.contracts.offer import Offer
from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.outcome import as_json, failed, reply_of, too_large
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.ai_session import call_tools
from services.ai_session.history import render

log = get_logger()

DISCOVERY_SUBJECT = "$SRV.INFO"
DISCOVERY_WAIT_S = 0.25
REFRESH_S = 30.0
RETRY_PAUSE_S = 0.3  # before an idempotent tool is asked again
REFRESH_MISSING_S = 2.0  # not every call of an agent with a missing tool asks again
PROMPT_TOOL_TIMEOUT_S = 1.5
MOST_REPLY_BYTES = 65_536  # about 20,000 tokens: more would push the conversation out of the model's context
MOST_NAME_CHARACTERS = 64  # API reference, `tools`
_PLACEHOLDER = re.compile(r"\{\{\s*tool:([A-Za-z0-9_-]+)\s*\}\}")


def descriptions_in(info: bytes) -> list[tuple[str, ToolDescription]]:
    """The tools that one `$SRV.INFO` answer names, each with its organisation, `*` for all of them.

    Endpoints that are no tools, or describe none, are skipped; so is what the models' APIs refuse: with it they would
    refuse the whole session.
    """
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


def _description(endpoint: Any) -> tuple[str, ToolDescription] | None:
    try:
        _, org, marker, name = endpoint["subject"].split(".")
        metadata = endpoint.get("metadata") or {}
        if marker != "tool" or "description" not in metadata:
            return None
        parameters = json.loads(metadata.get("parameters") or '{"type": "object", "properties": {}}')
        if parameters.get("type") != "object" or len(name) > MOST_NAME_CHARACTERS:
            return None
        return org, ToolDescription(
            name=check_token(name, "tool"),
            description=metadata["description"],
            parameters=parameters,
            idempotent=str(metadata.get("idempotent", "")).lower() == "true",
            timeout_ms=int(metadata.get("timeout_ms") or 8000),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError, RecursionError):
        return None


class ToolDirectory:
    """Which tools exist, refreshed in the background; shared by all calls of the worker."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tools: dict[tuple[str, str], ToolDescription] = {}
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
        found: dict[tuple[str, str], ToolDescription] = {}

        async def answer(msg: Msg) -> None:
            for org, tool in descriptions_in(msg.data):
                found[org, tool.name] = tool

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

    async def descriptions(self, agent: AgentConfig) -> list[ToolDescription]:
        """Descriptions of an agent's tools; one that nobody offers is left out, with a log line."""
        wanted = [name for name in agent.tools if name not in call_tools.NAMES]
        now = asyncio.get_running_loop().time()
        stale = not self._tools or now - self._refreshed_at > REFRESH_MISSING_S
        if stale and any(self.find(agent.org, name) is None for name in wanted):
            async with self._refreshing:
                if self._refreshed_at < now:  # else another call has asked while this one waited
                    await self._look_up()
        found = [tool for name in wanted if (tool := self.find(agent.org, name)) is not None]
        missing = set(wanted) - {tool.name for tool in found}
        if missing:
            self.counters["missing"] += len(missing)
            log.warning("tools of the agent are not on the bus", tools=sorted(missing))
        return [*found, *call_tools.descriptions(agent, agent.tools)]

    def find(self, org: str, name: str) -> ToolDescription | None:
        """A tool as an organisation has it: its own, else the one that all have."""
        return self._tools.get((org, name)) or self._tools.get((subjects.ANY, name))


class ToolCaller:
    """Calls tools for one call, within the agent's allow-list."""

    def __init__(self, offer: Offer, bus: Bus, directory: ToolDirectory) -> None:
        self.offer = offer
        self.bus = bus
        self._directory = directory

    async def call(self, tool_call_id: str, name: str, arguments: dict[str, Any] | None) -> ToolReply:
        """Call a tool that the model asked for; every failure is a reply that the model can apologise with."""
        agent = self.offer.agent
        if name not in agent.tools:
            return failed(f"There is no tool {name[:64]!r}.")
        if arguments is None:
            return failed("The arguments were not a JSON object. Call the tool again, correctly.")
        known = self._directory.find(self.offer.org, name)
        most_s = agent.limits.tool_timeout_s
        timeout_s = min(most_s, known.timeout_ms / 1000) if known is not None else most_s
        return await self._request(tool_call_id, name, arguments, timeout_s)

    async def _request(self, tool_call_id: str, name: str, arguments: dict[str, Any], timeout_s: float) -> ToolReply:
        offer = self.offer
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
            return read_reply(name, await self._ask(subject, request, timeout_s))
        except nats.errors.NoRespondersError:
            return failed(f"The tool {name} is not available at the moment.")
        except (nats.errors.TimeoutError, TimeoutError):
            return failed(f"The tool {name} did not answer in time; its result is unknown.")
        except (nats.errors.Error, OSError, ValueError) as error:
            log.warning("tool call failed", tool=name, problem=str(error))
            return failed(f"The tool {name} failed.")

    async def _ask(self, subject: str, request: ToolRequest, timeout_s: float) -> bytes:
        """One request; a second one of a tool that may be asked twice: its `tool_call_id` stays the same."""
        try:
            return await self.bus.request(subject, request.to_json(), timeout_s)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError, TimeoutError):
            known = self._directory.find(request.org, request.name)
            if known is None or not known.idempotent:
                raise
        await asyncio.sleep(RETRY_PAUSE_S)
        again = request.model_copy(update={"deadline_at": datetime.now(UTC) + timedelta(seconds=timeout_s)})
        return await self.bus.request(subject, again.to_json(), timeout_s)

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


def read_reply(name: str, data: bytes) -> ToolReply:
    """What a tool answered, in whatever language it is written: of a bounded size, and nothing but JSON.

    Raises:
        ValueError: it is no `ToolReply`.
    """
    if len(data) > MOST_REPLY_BYTES:
        return too_large(name, len(data), MOST_REPLY_BYTES)
    reply = ToolReply.model_validate_json(data)
    if reply.ok:
        return reply_of(name, reply.output, MOST_REPLY_BYTES)
    return failed(reply.error or f"The tool {name} failed.")


def as_prompt(output: Any) -> str:
    """A tool's result as words of a prompt: a list of texts becomes a comma-separated one, else JSON."""
    if isinstance(output, dict) and len(output) == 1:
        output = next(iter(output.values()))
    if isinstance(output, list) and all(isinstance(entry, str) for entry in output):
        return ", ".join(output)
    return render(output)


def parse_arguments(text: str) -> dict[str, Any] | None:
    """The model's arguments; None when they are not a JSON object that can be written on the bus again."""
    try:
        arguments = json.loads(text or "{}")
        as_json(arguments)
    except (ValueError, RecursionError):  # half a surrogate pair, NaN, nested thousands of levels deep
        return None
    return arguments if isinstance(arguments, dict) else None
