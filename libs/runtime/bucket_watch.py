"""Follows a KV bucket for whoever keeps a copy of it.

The watch is made anew whenever the bus comes back, and the whole bucket is read again then: nobody depends on a watch
that went deaf.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import nats.errors
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue

from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

RETRY_S = 0.5
QUIET_S = 1.0


class Copy(Protocol):
    """Who keeps a copy. Nothing here may wait."""

    def begin(self) -> None:
        """All entries come now, for the first time or again."""

    def take(self, key: str, value: bytes | None) -> None:
        """An entry; None: it was removed."""

    def complete(self) -> None:
        """All present entries were told; from now on changes are."""

    def quiet(self) -> None:
        """Nothing has come for a second."""


class BucketWatch:
    """`run()` is one task of the service's TaskGroup."""

    def __init__(self, bus: Bus, name: str, copy: Copy) -> None:
        self._bus, self._name, self._copy = bus, name, copy
        self._again = False
        bus.control_link.on_up.append(self._restart)

    def _restart(self) -> None:
        self._again = True

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        while True:
            stop_if_cancelled()
            try:
                await self._follow()
            except (nats.errors.Error, JetStreamError, OSError) as error:
                log.debug("a watch starts again", bucket=self._name, problem=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        self._again = False
        store = await bucket(self._bus.js, self._name)
        watcher = await store.watchall()
        self._copy.begin()
        has_values = is_marked = is_complete = False
        try:
            while not self._again:
                stop_if_cancelled()
                try:
                    entry = await watcher.updates(timeout=QUIET_S)  # type: ignore[no-untyped-call]
                except nats.errors.TimeoutError:
                    is_last = is_marked
                    self._copy.quiet()
                else:
                    if entry is None:
                        is_marked, is_last = True, has_values or await _is_empty(store)
                    else:
                        has_values, is_last = True, not entry.delta
                        self._copy.take(entry.key, None if entry.operation else entry.value)
                if is_last and not is_complete:
                    is_complete = True
                    self._copy.complete()
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]


async def _is_empty(store: KeyValue) -> bool:
    """Asked when the client says that all values were sent and none has come: in one of 300 watches it says so too
    early, and who believed it would be without them until they come.
    """
    return (await store.status()).values == 0
