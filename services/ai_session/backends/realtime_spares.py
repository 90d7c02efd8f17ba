"""Realtime connections kept open, unconfigured, for callers who lose theirs: the shell around `spares`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import msgspec
import picows

from libs.runtime.log import get_logger
from services.ai_session.backends.port import BackendError
from services.ai_session.backends.realtime_link import Endpoint, Listener, Receiver, connect
from services.ai_session.spares import Drop, Open, Spares

log = get_logger()

CREATED_TIMEOUT_S = 5.0
KEPT_FRAMES = 10


class _Session(msgspec.Struct):
    expires_at: float | None = None


class _Greeting(msgspec.Struct):
    type: str
    session: _Session | None = None


_greeting = msgspec.json.Decoder(_Greeting)


class SpareConnection:
    """An open session that nobody uses: keeps what the server said for whoever adopts it. Its end sets `changed`."""

    behind = False

    def __init__(self, changed: asyncio.Event) -> None:
        self.opened_at = asyncio.get_running_loop().time()
        self.expires_at: float | None = None
        self.greeted = asyncio.Event()  # or lost before that
        self.is_lost = False
        self._changed = changed
        self._transport: picows.WSTransport | None = None
        self._frames: list[bytes] = []

    def connected(self, transport: picows.WSTransport) -> None:
        """See `Receiver`."""
        self._transport = transport

    def received(self, data: bytes) -> None:
        """The greeting, usually; an `error` makes it useless."""
        if len(self._frames) < KEPT_FRAMES:
            self._frames.append(data)
        with suppress(msgspec.DecodeError):
            greeting = _greeting.decode(data)
            if greeting.type == "session.created":
                self.expires_at = greeting.session.expires_at if greeting.session is not None else None
                self.greeted.set()
            elif greeting.type == "error":
                self.disconnect()

    def closing(self, code: int, reason: str) -> None:
        """See `Receiver`."""

    def disconnected(self) -> None:
        """See `Receiver`."""
        self.is_lost = True
        self.greeted.set()
        self._changed.set()

    def disconnect(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.send_close(picows.WSCloseCode.OK)
            self._transport.disconnect()

    def adopt(self, listener: Listener, receiver: Receiver) -> None:
        """Hand the connection and all it has received to its new owner."""
        assert self._transport is not None
        listener.receiver = receiver
        receiver.connected(self._transport)
        for frame in self._frames:
            receiver.received(frame)


class SpareConnections:
    """One per worker and endpoint. `run` keeps them; `adopt` and `served` are called by backends."""

    def __init__(self, endpoint: Endpoint, wanted: int) -> None:
        self._endpoint, self._wanted = endpoint, wanted
        self._spares = Spares(wanted, endpoint.session_max_s)
        self._connections: dict[int, tuple[SpareConnection, Listener]] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._connections)

    def served(self, model: str) -> None:
        """A call of this model is being served."""
        if not self._closed and self._wanted and self._spares.served(model):
            self._changed.set()

    def adopt(self, model: str, receiver: Receiver) -> float | None:
        """Give `receiver` a kept connection; how old it is in seconds, None when there is none."""
        while (number := self._spares.take(model)) is not None:
            spare, listener = self._connections.pop(number)
            self._changed.set()
            if not spare.is_lost:
                self._endpoint.counters["spare_taken"] += 1
                spare.adopt(listener, receiver)
                return asyncio.get_running_loop().time() - spare.opened_at
        self._endpoint.counters["spare_missing"] += 1
        return None

    async def run(self) -> None:
        """Keep connections until cancelled or closed."""
        try:
            while not self._closed:
                await self._step()
        except Exception:  # the top of a task: calls go on without spares
            log.exception("no spare sessions are kept any more")
        finally:
            self.close()

    async def _step(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed.clear()
        self._forget_lost(loop.time())
        for action in self._spares.step(loop.time()):
            match action:
                case Open(model):
                    await self._open(model)
                case Drop(number):
                    self._connections.pop(number)[0].disconnect()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._spares.next_at(loop.time())):
                await self._changed.wait()

    def close(self) -> None:
        """Close all, keep none: the worker drains."""
        self._closed = True
        self._changed.set()
        for number in self._spares.close():
            self._connections.pop(number)[0].disconnect()

    def _forget_lost(self, now: float) -> None:
        for number, (spare, _) in list(self._connections.items()):
            if spare.is_lost:
                self._endpoint.counters["spare_lost"] += 1
                del self._connections[number]
                self._spares.lost(number, now)

    async def _open(self, model: str) -> None:
        spare, loop = SpareConnection(self._changed), asyncio.get_running_loop()
        try:
            listener = await connect(self._endpoint, model, spare)
            async with asyncio.timeout(CREATED_TIMEOUT_S):
                await spare.greeted.wait()
            if spare.is_lost:
                raise BackendError("unreachable", "the server ended it at once", retry=True)
        except (BackendError, TimeoutError) as error:
            spare.disconnect()
            self._endpoint.counters["spare_refused"] += 1
            log.warning("no spare session could be opened", problem=str(error) or "no session.created came")
            self._spares.refused(loop.time())
            return
        except asyncio.CancelledError:
            spare.disconnect()
            raise
        if self._closed:
            spare.disconnect()
            return
        expires_in_s = None if spare.expires_at is None else spare.expires_at - time.time()
        self._connections[self._spares.opened(model, expires_in_s, loop.time())] = (spare, listener)
        self._endpoint.counters["spare_opened"] += 1
