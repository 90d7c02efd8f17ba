"""Commands to a leg, from the bus: read, checked by the entrance, done by leg or audience, answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.aio.msg import Msg

from libs.contracts import wire
from libs.contracts.commands import (
    CommandReply,
    Describe,
    Hold,
    LegCommand,
    Listen,
    Record,
    SendDtmf,
    TakeOver,
    Transfer,
)
from libs.runtime.log import get_logger

if TYPE_CHECKING:
    from libs.call_leg.shell import LegShell

log = get_logger()


class CommandDesk:
    """One per call."""

    def __init__(self, shell: LegShell) -> None:
        self._shell = shell
        self._decoder = wire.leg_command_decoder()

    async def received(self, msg: Msg) -> None:
        """One command; the reply is a `CommandReply`."""
        command = self._decoder.decode(msg.data)
        if command is None:
            reply = CommandReply(ok=False, error=f"command {wire.kind_of(msg.data)!r} was not understood")
        else:
            reply = self._obey(command)
            if not reply.ok:
                log.info("command refused", command=command.kind, why=reply.error)
        if msg.reply:
            await msg.respond(reply.to_json())

    def _obey(self, command: LegCommand) -> CommandReply:
        shell = self._shell
        if isinstance(command, Transfer | SendDtmf | Hold):
            objection = shell.entrance.objection(command)
            if objection is not None:
                return CommandReply(ok=False, error=objection)
        reply = shell.obey(command)
        if not reply.ok:
            return reply
        match command:
            case Describe():
                return CommandReply(ok=True, details=shell.details())
            case TakeOver():
                return CommandReply(ok=True, details=reply.details | shell.line())
            case Record():
                shell.audience.record(command.on)
                return reply
            case Listen():
                heard = shell.audience.listen(command)
                return CommandReply(ok=True, details=shell.line() | {"phase": shell.leg.phase.value} | heard)
            case _:
                return reply
