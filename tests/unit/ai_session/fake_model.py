"""A Realtime endpoint of a few lines, for what the rehearsal server is too well-behaved to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]
React = Callable[["FakeModel", web.WebSocketResponse, Json], Awaitable[None]]


async def configured(model: FakeModel, socket: web.WebSocketResponse, event: Json) -> None:
    """Accept any configuration."""
    if event["type"] == "session.update":
        await socket.send_json({"type": "session.updated", "session": event["session"]})


class FakeModel:
    """Greets each connection with `session.created` and hands every event but audio to `react`."""

    def __init__(self, react: React, greeting: str | None) -> None:
        self.react = react
        self.greeting = greeting
        self.connections = 0
        self.events: list[Json] = []
        self.sockets: list[web.WebSocketResponse] = []
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def of_type(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]

    async def start(self) -> None:
        """Listen; on the same port as before when it was stopped."""
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def say(self, **event: Any) -> None:
        """Send an event on the newest connection."""
        await self.sockets[-1].send_json(event)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        self.sockets.append(socket)
        await socket.send_str(self.greeting or json.dumps({"type": "session.created", "session": {}}))
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] != "input_audio_buffer.append":
                    self.events.append(event)
                await self.react(self, socket, event)
        return socket


@asynccontextmanager
async def fake_model(react: React = configured, greeting: str | None = None) -> AsyncIterator[FakeModel]:
    model = FakeModel(react, greeting)
    await model.start()
    try:
        yield model
    finally:
        await model.stop()
