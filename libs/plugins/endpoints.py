"""Tools as NATS micro endpoints: what any service that offers some starts and stops.

A set of tools is one micro service: it is on the bus as a whole, and is replaced as a whole.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
from nats import micro
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig
from pydantic import ValidationError

from libs.contracts import subjects
from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.outcome import failed
from libs.runtime.bus import Bus
from libs.runtime.log import bound, get_logger
from libs.runtime.respond import respond

log = get_logger()

VERSION = "1.0.0"
ANSWER_MARGIN_S = 0.05  # a reply needs a moment to arrive before the deadline


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool, and who answers for it. `org`: the only organisation that has it; `*` for all."""

    description: ToolDescription
    answer: Callable[[ToolRequest], Awaitable[ToolReply]]
    org: str = subjects.ANY


class ToolEndpoints:
    """One set of tools on the bus. Requests are answered concurrently, by tasks of the given group."""

    def __init__(self, bus: Bus, tasks: asyncio.TaskGroup, counters: Counter[str]) -> None:
        self._bus, self._tasks, self._counters = bus, tasks, counters
        self._service: Service | None = None

    async def start(self, service: str, about: str, tools: Iterable[OfferedTool]) -> None:
        """Offer the tools under a micro service's name."""
        self._service = await micro.add_service(
            self._bus.control, ServiceConfig(name=service, version=VERSION, description=about)
        )
        for tool in tools:
            await self._service.add_endpoint(self._endpoint(tool))

    async def stop(self) -> None:
        """Take them off the bus; requests already taken are still answered."""
        service, self._service = self._service, None
        if service is not None:
            with suppress(nats.errors.Error):  # a closed connection offers nothing any more
                await service.stop()

    def _endpoint(self, tool: OfferedTool) -> EndpointConfig:
        async def handle(request: Request) -> None:
            self._tasks.create_task(self._answer(tool, request))

        return EndpointConfig(
            name=tool.description.name,
            subject=subjects.tool(tool.org, tool.description.name),
            handler=handle,
            metadata=metadata(tool.description),
        )

    async def _answer(self, tool: OfferedTool, request: Request) -> None:
        name = tool.description.name
        try:
            asked = ToolRequest.model_validate_json(request.data)
        except ValidationError as error:
            self._counters["malformed"] += 1
            problem = str(error.errors(include_url=False)[0]["msg"])
            log.warning("tool request not understood", tool=name, problem=problem)
            await respond(self._bus, request._msg, failed(f"The request to {name} was not understood."))
            return
        with bound(call=asked.call, tool=name):
            await respond(self._bus, request._msg, await self._in_time(tool, request.subject, asked))

    async def _in_time(self, tool: OfferedTool, subject: str, asked: ToolRequest) -> ToolReply:
        name = tool.description.name
        if asked.name != name or subject.split(".")[1] != asked.org:
            return failed(f"The request names another tool or organisation than {subject}.")
        left_s = (asked.deadline_at - datetime.now(UTC)).total_seconds() - ANSWER_MARGIN_S
        try:
            async with asyncio.timeout(min(left_s, tool.description.timeout_ms / 1000 + ANSWER_MARGIN_S)):
                return await tool.answer(asked)
        except TimeoutError:
            self._counters["too_late"] += 1
            return failed(f"The tool {name} did not answer in time; its result is unknown.")
        except Exception:  # top of a tool call: a defect in one must not end the others
            self._counters["defect"] += 1
            log.exception("tool failed")
            return failed(f"The tool {name} failed.")


def metadata(tool: ToolDescription) -> dict[str, str]:
    """An endpoint's metadata, where workers find the description (`$SRV.INFO`)."""
    return {
        "description": tool.description,
        "parameters": json.dumps(tool.parameters, ensure_ascii=False),
        "idempotent": json.dumps(tool.idempotent),
        "timeout_ms": str(tool.timeout_ms),
    }
