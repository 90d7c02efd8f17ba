"""One MCP server: connected, its tools listed again and again, called; a lost connection is made anew.

MCP, streamable HTTP transport; `tools/list`, `tools/call`.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent, Tool

from libs.contracts.external_tools import McpTools, secrets_of
from libs.contracts.tool import ToolDescription, ToolReply, ToolRequest
from libs.plugins.endpoints import OfferedTool
from libs.plugins.outcome import failed, reply_of
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.catalog_tools.guard import Guard, GuardedResolver
from services.catalog_tools.http_request import MissingSecretError

log = get_logger()

LIST_EVERY_S = 30.0
LIST_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
MOST_TOOLS = 100
MOST_PAGES = 20
MOST_DESCRIPTION_BYTES = 8192  # of one tool; with `MOST_TOOLS` of them the service's description is still one message

Offer = Callable[[list[OfferedTool]], Awaitable[None]]


class McpServer:
    """`run` lasts until it is cancelled. `offer` is told the tools when they change, none when the server is lost."""

    def __init__(
        self, document: McpTools, guard: Guard, secrets: Mapping[str, str], offer: Offer, counters: Counter[str]
    ) -> None:
        self._document, self._guard, self._secrets = document, guard, secrets_of(document.org, secrets)
        self._offer, self._counters = offer, counters
        self._client: Client | None = None
        self._broken = asyncio.Event()
        self._listed: list[Tool] | None = None

    async def run(self) -> None:
        """Connect, and connect again."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._listed, self._broken = None, asyncio.Event()
            try:
                async with self._connected() as client:
                    self._client = client
                    await self._follow(client)
            except Exception as error:  # noqa: BLE001  a foreign server and its transport: groups of anything
                self._counters["mcp_lost"] += 1
                log.warning("an MCP server is not available", server=self._document.name, problem=_first(error))
            finally:
                self._client = None
            stop_if_cancelled()  # closing a transport may turn a cancellation into an error of its own
            pause_s = FIRST_PAUSE_S if self._listed is not None else min(2 * pause_s, LONGEST_PAUSE_S)
            await self._offer([])
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        document = self._document
        headers = {}
        if document.token is not None:
            if document.token not in self._secrets:
                raise MissingSecretError(f"TOOL_SECRETS has no {document.token!r}")
            headers["Authorization"] = f"Bearer {self._secrets[document.token]}"
        async with httpx2.AsyncClient(
            transport=_GuardedTransport(self._guard),
            headers=headers,
            timeout=httpx2.Timeout(LIST_TIMEOUT_S, read=300.0),
            follow_redirects=False,
        ) as http:
            transport = streamable_http_client(document.url, http_client=http)
            async with Client(transport, read_timeout_seconds=document.timeout_ms / 1000) as client:
                yield client

    async def _follow(self, client: Client) -> None:
        """List the tools now, then regularly, which shows a lost connection, too."""
        while True:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                tools = await self._tools(client)
            if tools != self._listed:
                self._listed = tools
                log.info("tools of an MCP server", server=self._document.name, tools=[tool.name for tool in tools])
                await self._offer(
                    [OfferedTool(self.describe(tool), self._answerer(tool), self._document.org) for tool in tools]
                )
            try:
                async with asyncio.timeout(LIST_EVERY_S):
                    await self._broken.wait()
                    raise ConnectionError("a call found the connection broken")
            except TimeoutError:
                continue

    async def _tools(self, client: Client) -> list[Tool]:
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        allowed = self._document.allowed_tools
        return self._usable(tool for tool in found if not allowed or tool.name in allowed)[:MOST_TOOLS]

    def _usable(self, found: Iterable[Tool]) -> list[Tool]:
        """One of each name, of a size that can be told: two with one name would answer by turns."""
        usable: dict[str, Tool] = {}
        for tool in found:
            told = self.describe(tool)
            is_large = len(json.dumps(told.parameters)) > MOST_DESCRIPTION_BYTES
            if is_large or told.name in usable:
                self._counters["mcp_unusable"] += 1
                why = "its parameters are too large" if is_large else "another one has its name"
                log.warning("a tool of an MCP server is left out", server=self._document.name, tool=tool.name, why=why)
            else:
                usable[told.name] = tool
        return list(usable.values())

    def describe(self, tool: Tool) -> ToolDescription:
        """A tool under the server's name."""
        hints = tool.annotations
        is_idempotent = hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
        return ToolDescription(
            name=re.sub(r"[^A-Za-z0-9_-]", "_", f"{self._document.name}_{tool.name}")[:64],
            description=(tool.description or tool.title or tool.name)[:1000],
            parameters=tool.input_schema,
            idempotent=is_idempotent,
            timeout_ms=self._document.timeout_ms + 500,
        )

    def _answerer(self, tool: Tool) -> Callable[[ToolRequest], Awaitable[ToolReply]]:
        async def answer(request: ToolRequest) -> ToolReply:
            return await self._call(tool.name, request)

        return answer

    async def _call(self, name: str, request: ToolRequest) -> ToolReply:
        client = self._client
        if client is None:
            return failed(f"The tool {request.name} is not available at the moment.")
        try:
            async with asyncio.timeout(self._document.timeout_ms / 1000):
                result = await client.call_tool(name, request.arguments)
        except TimeoutError:
            self._counters["mcp_too_late"] += 1
            return failed(f"The tool {request.name} did not answer in time; its result is unknown.")
        except Exception as error:  # noqa: BLE001  see `run`
            self._counters["mcp_failed"] += 1
            log.warning("a call of an MCP tool failed", tool=request.name, problem=_first(error))
            if not _is_answer(error):
                self._broken.set()
            return failed(f"The tool {request.name} failed.")
        self._counters["mcp_answered"] += 1
        return read_result(request.name, result, self._document.most_bytes)


class _GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to the very address that was judged, at each request: a name may lead elsewhere a moment later."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(trust_env=False)
        self._guard, self._resolver = guard, GuardedResolver(guard)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncHTTPTransport`."""
        self._guard.check_literal(str(request.url))
        host = request.url.host
        found = await self._resolver.resolve(host, 0, socket.AF_UNSPEC)
        addresses = list(dict.fromkeys(result["host"] for result in found))
        for address in addresses:
            there = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # `Host` is the name still
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await super().handle_async_request(there)
            except httpx2.ConnectError:
                if address == addresses[-1]:
                    raise
        raise httpx2.ConnectError(f"{host} has no address")


def read_result(name: str, result: CallToolResult, most_bytes: int) -> ToolReply:
    """What an MCP tool gave: structured content, else its texts; pictures and sounds cannot be spoken."""
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if result.is_error:
        return failed(" ".join(texts).strip() or f"The tool {name} failed.")
    structured: Any = result.structured_content
    if isinstance(structured, dict) and set(structured) == {"result"}:
        structured = structured["result"]
    return reply_of(name, structured if structured is not None else "\n".join(texts), most_bytes)


def _is_answer(error: Exception) -> bool:
    """Whether the server said no, rather than being away."""
    return type(error).__name__ in ("MCPError", "McpError")


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
