"""KV `calls`, the copy of the gateway's memory for everyone else (R4). No call ever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import nats.errors
from nats.js.errors import Error as JetStreamError

from libs.contracts import subjects
from libs.contracts.heartbeat import CallEntry
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

RETRY_S = 0.5


class CallsCopy:
    """Writes the newest entry of each call; after a reconnect all of them, and the bucket if it is gone."""

    def __init__(self, bus: Bus, everything: Callable[[], Iterable[CallEntry]]) -> None:
        self._bus = bus
        self._everything = everything
        self._pending: dict[str, CallEntry | None] = {}
        self._wanted = asyncio.Event()
        self._written = asyncio.Event()
        bus.control_link.on_up.append(self._write_all)

    def put(self, entry: CallEntry) -> None:
        """Copy this entry as soon as possible; a newer one replaces it."""
        self._pending[entry.call] = entry
        self._wanted.set()

    def drop(self, call: str) -> None:
        """The call has ended."""
        self._pending[call] = None
        self._wanted.set()

    def _write_all(self) -> None:
        for entry in self._everything():
            self._pending.setdefault(entry.call, entry)
        self._wanted.set()

    async def flush(self, timeout_s: float) -> None:
        """Wait until what is known is written, at most so long: a gateway that ends leaves no ghosts."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._pending:
                    await self._written.wait()
        except TimeoutError:
            log.warning("calls that have ended stay listed for a while", calls=len(self._pending))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            stop_if_cancelled()
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._write_pending()
            except (nats.errors.Error, JetStreamError, OSError) as error:
                log.debug("calls not copied yet", problem=str(error))
                self._wanted.set()
                await asyncio.sleep(RETRY_S)

    async def _write_pending(self) -> None:
        store = await bucket(self._bus.js, subjects.KV_CALLS)
        while self._pending:
            stop_if_cancelled()
            call, entry = next(iter(self._pending.items()))
            if entry is None:
                await store.delete(call)
            else:
                await store.put(call, entry.to_json())
            if self._pending.get(call) is entry:
                del self._pending[call]
            self._written.set()
            self._written.clear()
