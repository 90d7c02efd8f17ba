"""The shell of one Realtime or Live session: a WebSocket, the core, and its one timer."""

from __future__ import annotations

import asyncio
from typing import Protocol

import orjson
from aiohttp import WSMsgType, web

from services.rehearsal.outputs import Abort, Close, Output, Raw
from services.rehearsal.validation import ServerEventError


class SessionCore(Protocol):
    """A session without I/O: Realtime or Live."""

    def start(self) -> list[Output]:
        """What the server sends unasked."""

    def receive(self, event: str | bytes, now: float) -> list[Output]:
        """Take a frame of the client."""

    def deadline(self) -> float | None:
        """When `expire` has something to do."""

    def expire(self, now: float) -> list[Output]:
        """Send what is due."""

    def connection_lost(self, code: int | None, by: str) -> None:
        """The connection is gone."""


class _Closed(Exception):
    """The session is over; ends the connection's tasks."""


class Connection:
    """Carries frames between an accepted WebSocket and a session until either ends it."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse, session: SessionCore) -> None:
        self._request, self._socket, self._session = request, socket, session
        self._loop = asyncio.get_running_loop()
        # Bounded by what a scenario says in one session; a client that does not read only hurts itself.
        self._outputs: asyncio.Queue[Output | ServerEventError] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve until the client goes, the session closes, or the server shuts the socket down."""
        self._act(self._session.start())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._write())
        except* (_Closed, ConnectionError):
            pass
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._session.connection_lost(self._socket.close_code, "client")

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                # The API takes text frames; a binary one with JSON is tolerated by the real server too.
                self._act(self._session.receive(message.data, self._loop.time()))
        raise _Closed

    async def _write(self) -> None:
        while True:
            output = await self._outputs.get()
            match output:
                case Raw(data=str() as text):
                    await self._socket.send_str(text)
                case Raw(data=bytes() as data):
                    await self._socket.send_bytes(data)
                case Close(code=code, reason=reason):
                    await self._socket.close(code=code, message=reason.encode(), drain=True)
                    raise _Closed
                case Abort():
                    if self._request.transport is not None:
                        self._request.transport.abort()
                    raise _Closed
                case ServerEventError():
                    raise output
                case dict():
                    await self._socket.send_str(orjson.dumps(output).decode())

    def _act(self, outputs: list[Output]) -> None:
        for output in outputs:
            self._outputs.put_nowait(output)
        if self._timer is not None:
            self._timer.cancel()
        due = self._session.deadline()
        self._timer = self._loop.call_at(due, self._expire) if due is not None else None

    def _expire(self) -> None:
        self._timer = None
        try:
            self._act(self._session.expire(self._loop.time()))
        except ServerEventError as error:
            # Raised here it would only be logged by the loop, and the session would hang.
            self._outputs.put_nowait(error)
