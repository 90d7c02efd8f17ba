"""From the gateway to a call's session: what is told it, and what it is asked. Nothing here holds up the call."""

from __future__ import annotations

import asyncio

import nats.errors

from libs.contracts.commands import Command, CommandReply
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()

ASK_S = 1.0


class AgentLine:
    """One per call; `tasks` is the call's TaskGroup while it runs."""

    def __init__(self, bus: Bus, subject: str) -> None:
        self._bus = bus
        self._subject = subject
        self.tasks: asyncio.TaskGroup | None = None

    def tell(self, command: Command) -> None:
        """Send it to the session, whichever that is; the command's epoch says for whom it is."""
        self.send(self._subject, command.to_json())

    def send(self, subject: str, payload: bytes) -> None:
        """Send anything that belongs to the call, beside it."""
        if self.tasks is not None and not self._bus.control.is_closed:
            self.tasks.create_task(self._publish(subject, payload))

    async def _publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._bus.control.publish(subject, payload)
        except nats.errors.Error as error:  # R2 ends a session that misses this
            log.warning("not sent", subject=subject, problem=str(error) or type(error).__name__)

    async def ask(self, command: Command) -> CommandReply | None:
        """The session's answer, or None when it gave none in time."""
        try:
            return CommandReply.model_validate_json(await self._bus.request(self._subject, command.to_json(), ASK_S))
        except (nats.errors.Error, ValueError, OSError):
            return None
