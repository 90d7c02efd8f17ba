"""Events on their way into JetStream: in order, retried until the server acknowledged them, stored once.

Callers never wait: `put` takes the event, one task publishes. An event id repeated by a retry is
recognised by JetStream (Nats-Msg-Id).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

import nats.errors
from nats.js.errors import APIError, NoStreamResponseError

from libs.contracts import subjects
from libs.contracts.events import CallEvent
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

WRONG_LAST_SEQUENCE = 10071  # JetStream: "wrong last sequence"
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 1.0
ALARM_DEPTH = 10_000


class EventOutbox:
    """Publishes a process's events. `run()` is one task of the service's TaskGroup."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[tuple[CallEvent, bool, Callable[[], None] | None]] = deque()
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.counters: Counter[str] = Counter()

    @property
    def depth(self) -> int:
        """Events not yet acknowledged."""
        return len(self._waiting)

    def put(self, event: CallEvent, *, only_first: bool = False, superseded: Callable[[], None] | None = None) -> None:
        """Take an event. With `only_first` it counts only if its subject has none yet (R7, `call.ended`);
        `superseded` is called if somebody else was first."""
        self._waiting.append((event, only_first, superseded))
        self._empty.clear()
        self._arrived.set()
        if len(self._waiting) == ALARM_DEPTH:
            log.error("events pile up: is JetStream reachable?", depth=ALARM_DEPTH)

    async def run(self) -> None:
        """Publish until cancelled. Events still waiting then are lost: call `flush` first."""
        while True:
            stop_if_cancelled()
            while not self._waiting:
                self._empty.set()
                self._arrived.clear()
                await self._arrived.wait()
            event, only_first, superseded = self._waiting[0]
            stored = await self._publish(event, only_first)
            self._waiting.popleft()
            if not stored and superseded is not None:
                superseded()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything taken so far is acknowledged; False when time ran out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            log.error("events were not acknowledged in time", depth=self.depth)
            return False
        return True

    async def _publish(self, event: CallEvent, only_first: bool) -> bool:
        kind: str = event.kind  # type: ignore[attr-defined]  # every concrete event has one
        try:
            subject, payload = subjects.event(event.org, event.call, kind), event.to_json()
        except ValueError as error:  # no token, or not JSON: one bad event must not hold up the others
            return self._unpublishable(event, str(error))
        headers = {"Nats-Msg-Id": event.event_id}
        if only_first:
            headers["Nats-Expected-Last-Subject-Sequence"] = "0"
        wait_s = RETRY_FIRST_S
        while True:
            try:
                ack = await self._bus.js.publish(subject, payload, timeout=2, headers=headers)
            except APIError as error:
                ours = None
                if only_first and error.err_code == WRONG_LAST_SEQUENCE:
                    ours = await self._is_ours(subject, event.event_id)
                if ours is not None:
                    self.counters["duplicate" if ours else "superseded"] += 1
                    return ours
                problem: Exception = error
            except nats.errors.MaxPayloadError:
                return self._unpublishable(event, f"{len(payload)} bytes are more than the server takes")
            except (nats.errors.Error, NoStreamResponseError, OSError) as error:
                problem = error
            else:
                self.counters["duplicate" if ack.duplicate else "published"] += 1
                return True
            self.counters["retried"] += 1
            if wait_s >= RETRY_MOST_S:
                log.warning("event not stored yet, trying again", kind=kind, problem=str(problem))
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MOST_S)

    def _unpublishable(self, event: CallEvent, problem: str) -> bool:
        self.counters["unpublishable"] += 1
        log.error("an event cannot be published and is lost", event_id=event.event_id, problem=problem)
        return True

    async def _is_ours(self, subject: str, event_id: str) -> bool | None:
        """The expected sequence is checked before the message id: was it our own publish, its ack lost?
        None when the server did not say."""
        try:
            last = await self._bus.js.get_last_msg(subjects.EVENTS_STREAM, subject)
        except (nats.errors.Error, APIError):
            return None
        return (last.headers or {}).get("Nats-Msg-Id") == event_id
