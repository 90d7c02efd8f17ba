"""The demo's view of its call: every event as it comes, printed, kept, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from nats.aio.client import Client
from rich.console import Console

from cli.errors import CliError
from cli.render import EventLines
from cli.tap import ALL, events
from libs.contracts.events import CallOffered, Event
from libs.contracts.wire import event_decoder

E = TypeVar("E", bound=Event)


class CallLog:
    """Events of one call: the first that begins after `follow` does, which is a task of the demo."""

    def __init__(self, console: Console) -> None:
        self.events: list[Event] = []
        self.console = console
        self._lines = EventLines()
        self._arrived = asyncio.Condition()

    async def follow(self, client: Client, after: int = 0) -> None:
        """Take events until cancelled. `after` is a sequence number of the stream: what is older is another call's."""
        decoder = event_decoder()
        async for message in events(client, ALL, after):
            event = decoder.decode(message.data)
            if event is None or not self._is_ours(event):
                continue
            async with self._arrived:
                self.events.append(event)
                self._arrived.notify_all()
            if (line := self._lines.line(event)) is not None:
                self.console.print(line, soft_wrap=True)

    def _is_ours(self, event: Event) -> bool:
        """On a bus with other calls, the first event of ours is the one that offers it."""
        return event.call == self.events[0].call if self.events else isinstance(event, CallOffered)

    async def wait_for(
        self, kind: type[E], after: int = 0, timeout_s: float = 15.0, where: Callable[[E], bool] = lambda _: True
    ) -> E:
        """The first event of a kind among those from number `after` on.

        Raises:
            CliError: none came in time.
        """

        def found() -> E | None:
            wanted = (event for event in self.events[after:] if isinstance(event, kind) and where(event))
            return next(wanted, None)

        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: found() is not None)
        except TimeoutError:
            name = kind.model_fields["kind"].default
            raise CliError(f"no {name} came within {timeout_s:g} s") from None
        event = found()
        assert event is not None
        return event
