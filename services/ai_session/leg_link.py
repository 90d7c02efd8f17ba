"""The session's line to its call leg: commands that the gateway answers (R7)."""

from __future__ import annotations

import asyncio
from itertools import chain, repeat

import nats.errors

from libs.contracts import subjects
from libs.contracts.commands import Command, CommandReply
from libs.contracts.offer import Offer
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

COMMAND_TIMEOUT_S = 1.0
PAUSES_S = (0.02, 0.1, 0.3)  # between attempts
LAST_PAUSE_S = 0.5  # between all further ones


class LegLink:
    """Commands of one session. Each carries the session's epoch, so that a fenced one is refused."""

    def __init__(self, offer: Offer, bus: Bus) -> None:
        self._subject = subjects.control(offer.org, offer.call, "leg")
        self._bus = bus

    async def ask(self, command: Command) -> CommandReply | None:
        """One attempt; None when there was no answer."""
        try:
            reply = await self._bus.request(self._subject, command.to_json(), COMMAND_TIMEOUT_S)
            return CommandReply.model_validate_json(reply)
        except (nats.errors.Error, OSError, ValueError) as error:
            log.warning("the leg did not answer", problem=str(error) or type(error).__name__)
            return None

    async def tell(self, command: Command) -> None:
        """Repeat until there is an answer, whatever it is; the session's end ends it."""
        for pause_s in chain(PAUSES_S, repeat(LAST_PAUSE_S)):
            stop_if_cancelled()
            if await self.ask(command) is not None:
                return
            await asyncio.sleep(pause_s)

    async def press(self, command: Command) -> None:
        """Repeat until the leg agrees; the session's end ends it."""
        for pause_s in chain(PAUSES_S, repeat(LAST_PAUSE_S)):
            stop_if_cancelled()
            reply = await self.ask(command)
            if reply is not None and reply.ok:
                return
            await asyncio.sleep(pause_s)

    async def insist(self, command: Command) -> str | None:
        """Repeat until the leg agrees: it may not have read our acceptance yet, which another of its tasks awaits.

        None when it agreed, else its last objection.
        """
        objection = "no answer"
        for pause_s in PAUSES_S:
            reply = await self.ask(command)
            if reply is not None:
                if reply.ok:
                    return None
                objection = reply.error
            await asyncio.sleep(pause_s)
        return objection
