"""The NATS side: one micro endpoint per tool, and the queries of `v1.rpc.catalog_tools.<verb>`."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from nats import micro
from nats.aio.msg import Msg
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from libs.contracts import subjects
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.tool import ToolReply, ToolRequest
from libs.runtime.bus import Bus
from libs.runtime.log import bound, get_logger
from libs.runtime.respond import respond
from services.catalog_tools.queries import VERBS, Queries
from services.catalog_tools.tools import TIMEOUT_MS, TOOLS, Tool, Toolbox

log = get_logger()

SERVICE = "catalog_tools"
VERSION = "1.0.0"
DESCRIPTION = "Product search and orders"
ANSWER_MARGIN_S = 0.05  # a reply needs a moment to arrive before the deadline
UNAVAILABLE = "The catalogue cannot be reached at the moment; please try again."
TOO_LATE = "That took too long; please try again."


class Server:
    """Answers tool calls and queries concurrently: one that waits for the database holds up no other."""

    def __init__(self, bus: Bus, toolbox: Toolbox, queries: Queries, concurrency: int) -> None:
        self._bus = bus
        self._toolbox = toolbox
        self._queries = queries
        self._slots = asyncio.Semaphore(concurrency)
        self.counters: Counter[str] = Counter()

    async def run(self, stopping: asyncio.Event, *, listening: Callable[[], None] = lambda: None) -> None:
        """Serve until `stopping`; requests taken before that are still answered."""
        async with asyncio.TaskGroup() as tasks:
            service = await micro.add_service(
                self._bus.control, ServiceConfig(name=SERVICE, version=VERSION, description=DESCRIPTION)
            )
            for tool in TOOLS.values():
                await service.add_endpoint(self._endpoint(tool, tasks))
            subscriptions = [
                await self._bus.control.subscribe(subjects.rpc(SERVICE, verb), SERVICE, cb=self._query(verb, tasks))
                for verb in VERBS
            ]
            await self._bus.subscribed()
            listening()
            await stopping.wait()
            await service.stop()
            for subscription in subscriptions:
                await subscription.unsubscribe()

    def _endpoint(self, tool: Tool, tasks: asyncio.TaskGroup) -> EndpointConfig:
        description = tool.describe()

        async def handle(request: Request) -> None:
            tasks.create_task(self._answer(tool.name, request))

        return EndpointConfig(
            name=tool.name,
            subject=subjects.tool(subjects.ANY, tool.name),
            handler=handle,
            metadata={
                "description": description.description,
                "parameters": json.dumps(description.parameters, ensure_ascii=False),
                "idempotent": json.dumps(description.idempotent),
                "timeout_ms": str(description.timeout_ms),
            },
        )

    async def _answer(self, name: str, request: Request) -> None:
        try:
            asked = ToolRequest.model_validate_json(request.data)
        except ValidationError as error:
            self.counters["malformed"] += 1
            log.warning(
                "tool request not understood", tool=name, problem=str(error.errors(include_url=False)[0]["msg"])
            )
            await respond(
                self._bus, request._msg, ToolReply(ok=False, error=f"The request to {name} was not understood.")
            )
            return
        with bound(call=asked.call, tool=name):
            reply = await respond(self._bus, request._msg, await self._in_time(name, request.subject, asked))
        self.counters["answered" if reply.ok else "answered_with_error"] += 1

    async def _in_time(self, name: str, subject: str, asked: ToolRequest) -> ToolReply:
        if asked.name != name or subject.split(".")[1] != asked.org:
            return ToolReply(ok=False, error=f"The request names another tool or organisation than {subject}.")
        left_s = (asked.deadline_at - datetime.now(UTC)).total_seconds() - ANSWER_MARGIN_S
        if left_s <= 0:
            self.counters["too_late"] += 1
            return ToolReply(ok=False, error=TOO_LATE)
        try:
            async with asyncio.timeout(min(left_s, TIMEOUT_MS / 1000)), self._slots:
                return await self._toolbox.answer(asked)
        except TimeoutError:
            self.counters["too_late"] += 1
            return ToolReply(ok=False, error=TOO_LATE)
        except (SQLAlchemyError, OSError) as problem:
            self.counters["unavailable"] += 1
            log.error("tool failed at the database", problem=str(problem).partition("\n")[0])
            return ToolReply(ok=False, error=UNAVAILABLE)
        except Exception:  # top of a tool call: a defect in one must not end the service for all calls
            self.counters["defect"] += 1
            log.exception("tool failed")
            return ToolReply(ok=False, error=UNAVAILABLE)

    def _query(self, verb: str, tasks: asyncio.TaskGroup) -> Callable[[Msg], Awaitable[None]]:
        async def handle(msg: Msg) -> None:
            tasks.create_task(self._answer_query(verb, msg))

        return handle

    async def _answer_query(self, verb: str, msg: Msg) -> None:
        try:
            request = RpcRequest.model_validate_json(msg.data or b"{}")
            async with self._slots:
                reply = RpcReply(ok=True, data=await self._queries.answer(verb, request))
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reply = RpcReply(ok=False, error=f"{verb}: {field}: {first['msg']}")
        except (SQLAlchemyError, OSError) as problem:
            log.error("query failed at the database", verb=verb, problem=str(problem).partition("\n")[0])
            reply = RpcReply(ok=False, error="the database of catalog_tools cannot be reached")
        except Exception:  # top of a query, as above
            log.exception("query failed", verb=verb)
            reply = RpcReply(ok=False, error=f"{verb} failed; see the log of catalog_tools")
        self.counters["query"] += 1
        await respond(self._bus, msg, reply)
