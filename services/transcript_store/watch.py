"""The janitor's shell: heartbeats from the bus, open calls from the store, ends into the outbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from libs.contracts import subjects
from libs.contracts.events import CallEnded, event_id
from libs.contracts.heartbeat import GatewayHeartbeat
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import bucket
from services.transcript_store.janitor import EndCall, Janitor, OpenCall
from services.transcript_store.store import OpenConversation, Store

log = get_logger()

TICK_S = 0.25
SOURCE = "janitor"
DETAILS = {
    Reason.LOST: "its gateway lives but knows nothing of the call any more",
    Reason.GATEWAY_LOST: "its gateway has vanished",
}


class Watch:
    """Runs the janitor. `run()` is one task of the service."""

    def __init__(self, bus: Bus, outbox: EventOutbox, store: Store, *, grace_s: float, look_s: float) -> None:
        self._bus = bus
        self._outbox = outbox
        self._store = store
        self._look_s = look_s
        self._core = Janitor(grace_s, TICK_S)
        self._open: dict[str, OpenConversation] = {}
        self.counters: Counter[str] = Counter()

    @property
    def open_calls(self) -> int:
        """Calls that go on, as far as the store knows."""
        return len(self._open)

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        link = self._bus.control_link
        link.on_up.append(lambda: self._core.link_up(loop.time()))
        link.on_down.append(self._core.link_down)
        if link.up_at is not None:
            self._core.link_up(link.up_at)
        subscription = await self._bus.control.subscribe(subjects.GATEWAY_HEARTBEATS, cb=self._heartbeat)
        looked_at = -self._look_s
        tick_at = loop.time()
        try:
            while True:
                if loop.time() - looked_at >= self._look_s:
                    looked_at = loop.time()
                    await self._look()
                for end in self._core.tick(loop.time()):
                    self._end(end)
                    await self._forget(end.call)
                tick_at = max(tick_at + TICK_S, loop.time())
                await asyncio.sleep(tick_at - loop.time())
        finally:
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    async def _heartbeat(self, message: Msg) -> None:
        try:
            beat = GatewayHeartbeat.model_validate_json(message.data)
        except ValidationError:
            self.counters["malformed_heartbeat"] += 1
            return
        self._core.heard(beat.gw, beat.call_list)

    async def _look(self) -> None:
        try:
            found = await self._store.open_conversations()
        except (SQLAlchemyError, OSError) as problem:
            log.warning("open calls cannot be read", problem=str(problem).partition("\n")[0])
            return
        self._open = {conversation.call: conversation for conversation in found}
        self._core.open_calls(OpenCall(c.call, c.org, c.gw) for c in found)

    def _end(self, end: EndCall) -> None:
        """R7: published only if there is no end yet; whoever is second learns it."""
        conversation = self._open[end.call]
        began, last = conversation.offered_at, conversation.last_event_at
        talk = last - conversation.answered_at if conversation.answered_at else None
        event = CallEnded(
            event_id=event_id(end.call, SOURCE, 0),
            org=end.org,
            call=end.call,
            at=datetime.now(UTC),
            termination=Termination.of(end.reason, DETAILS[end.reason]),
            duration_ms=max(0.0, (last - began).total_seconds() * 1000),
            talk_ms=max(0.0, talk.total_seconds() * 1000) if talk else 0.0,
        )
        self.counters[end.reason.value] += 1
        log.warning("call ended for nobody owns it", call=end.call, reason=end.reason.value)
        self._outbox.put(event, only_first=True, superseded=lambda: self._superseded(end.call))

    async def _forget(self, call: str) -> None:
        """Its gateway cannot take the call from KV `calls` any more."""
        try:
            await (await bucket(self._bus.js, subjects.KV_CALLS)).delete(call)
        except (nats.errors.Error, JetStreamError) as problem:
            log.info("a call that was lost stays listed for a while", call=call, problem=str(problem))

    def _superseded(self, call: str) -> None:
        self.counters["superseded"] += 1
        log.info("call had ended already", call=call)
