"""The events of one session: numbered, published through the outbox, remembered for a reconnect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from libs.contracts.events import CallerSpoke, CallEvent, Event, UsageReported, event_id
from libs.contracts.offer import Offer
from services.ai_session.instruments import SessionMeter

E = TypeVar("E", bound=CallEvent)


class Outbox(Protocol):
    """Where events go."""

    def put(self, event: CallEvent, *, only_first: bool = False, superseded: Callable[[], None] | None = None) -> None:
        """Take an event."""
        ...


class Journal:
    """Publishes events of one call and epoch with ids `<call>:wk<epoch>:<n>` (exactly once when repeated).

    `spent(org, usd)` is told every cost that the call reports, whatever its source.
    """

    def __init__(
        self,
        offer: Offer,
        outbox: Outbox,
        spent: Callable[[str, float], None] = lambda _org, _usd: None,
        ping_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._call, self._org, self._epoch = offer.call, offer.org, offer.epoch
        self._outbox = outbox
        self._spent = spent
        self.meter = SessionMeter(offer.agent.backend, ping_s)
        self._number = 0
        self._spoke_at: dict[str, datetime] = {}
        self.events: list[Event] = []

    def put(self, kind: type[E], **fields: Any) -> E:
        """Make an event of this kind and publish it."""
        self._number += 1
        event = self._make(kind, f"wk{self._epoch}", fields)
        if isinstance(event, CallerSpoke):
            self._spoke_at[event.item] = event.at
        elif isinstance(event, UsageReported) and event.cost_usd:
            self._spent(self._org, event.cost_usd)
        self.events.append(event)  # type: ignore[arg-type]  # every kind put here is one of the union
        self._outbox.put(event)
        self.meter.published(event)
        return event

    def remember(self, kind: type[E], **fields: Any) -> None:
        """Keep an event that the gateway publishes: the conversation that a fresh model session is told."""
        self.events.append(self._make(kind, f"wk{self._epoch}-heard", fields))  # type: ignore[arg-type]  # see put

    def _make(self, kind: type[E], source: str, fields: dict[str, Any]) -> E:
        return kind(
            event_id=event_id(self._call, source, self._number),
            org=self._org,
            call=self._call,
            at=datetime.now(UTC),
            epoch=self._epoch,
            **fields,
        )

    def spoke_at(self, item: str) -> datetime | None:
        """When the caller's turn began; asked once."""
        return self._spoke_at.pop(item, None)
