"""The live transcript of one call for its page: who said what, as the event stream has it."""

from __future__ import annotations

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from libs.contracts import subjects, wire
from libs.contracts.events import AgentText, CallerTurn
from libs.runtime.bus import Bus
from services.browser_gateway.connection import Connection
from services.browser_gateway.messages import Transcript

KINDS = ("caller.turn", "agent.text")


class TranscriptFeed:
    """Follows two kinds of events of one call; nothing is replayed, nothing else passes."""

    def __init__(self, bus: Bus, connection: Connection, org: str, call: str) -> None:
        self._bus = bus
        self._connection = connection
        self._subjects = [subjects.event(org, call, kind) for kind in KINDS]
        self._decoder = wire.event_decoder()
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Listen."""
        self._subscriptions = [await self._bus.control.subscribe(s, cb=self._on_event) for s in self._subjects]

    async def stop(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    async def _on_event(self, msg: Msg) -> None:
        event = self._decoder.decode(msg.data)
        if isinstance(event, CallerTurn) and event.text:
            self._connection.send(Transcript(who="caller", item=event.item, text=event.text))
        elif isinstance(event, AgentText) and event.text:
            self._connection.send(Transcript(who="agent", item=event.item, text=event.text))
