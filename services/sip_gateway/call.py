"""One SIP call as an entrance of a call leg: dialog verbs on one side, RTP on the other."""

from __future__ import annotations

import asyncio
import audioop
import base64
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from libs.contracts.commands import LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.events import MediaStatistics
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from libs.sip.errors import SipStateError

if TYPE_CHECKING:
    from libs.call_leg.audio import CallAudio
    from services.sip_gateway.rtp_session import RtpSession
    from services.sip_gateway.transport import Local, SipTransport

log = get_logger()

# What a caller is told when no agent takes the call and the route names no status of its own.
STATUS_OF: dict[Reason, int] = {
    Reason.NO_ROUTE: 404,
    Reason.UNKNOWN_AGENT: 480,
    Reason.AT_CAPACITY: 503,
    Reason.DRAINING: 503,
    Reason.NO_COMMON_CODEC: 488,
    Reason.MALFORMED_OFFER: 400,
    Reason.INTERNAL_ERROR: 500,
    Reason.OPERATOR_HUNG_UP: 603,
    Reason.AGENT_HUNG_UP: 603,
}


class SipCall:
    """Implements `libs.call_leg.ports.Entrance`. Commands on a dialog that ended meanwhile are harmless."""

    def __init__(
        self, transport: SipTransport, local: Local, dialog: str, answer_sdp: str, rtp: RtpSession, audio: CallAudio
    ) -> None:
        self._transport = transport
        self._local = local
        self.dialog = dialog
        self._answer_sdp = answer_sdp
        self.rtp = rtp
        self.audio = audio
        self._loop = asyncio.get_running_loop()
        self.sock: socket.socket | None = None
        self.on_fallback: Callable[[bytes], None] | None = None

    def ring(self) -> None:
        """180 Ringing."""
        self._transport.perform(self._local, self._transport.core(self._local).ring(self.dialog, self._loop.time()))

    def objection(self, command: LegCommand) -> str | None:
        """What SIP calls cannot do yet."""
        return f"'{command.kind}' is not available in this version of the SIP gateway"

    def dial(self) -> None:
        """Outbound calls are not placed yet."""

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """Never asked: see `objection`."""
        return "refer"

    def cancel_transfer(self) -> None:
        """Nothing runs."""

    def send_dtmf(self, digits: str) -> None:
        """Never asked: see `objection`."""

    def hold(self, held: bool) -> None:
        """Never asked: see `objection`."""

    def answer(self) -> None:
        """200 OK, and RTP from now on."""
        core, now = self._transport.core(self._local), self._loop.time()
        try:
            actions = core.answer(self.dialog, self._answer_sdp, now)
        except SipStateError as error:  # a CANCEL crossed; its event ends the leg
            log.info("not answered", problem=str(error))
            return
        self.rtp.answered(now)
        self._transport.perform(self._local, actions)

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """The route's message where it has one, else a final response."""
        if fallback.kind == "message" and fallback.message_ulaw_b64 and self.on_fallback is not None:
            self.on_fallback(audioop.ulaw2lin(base64.b64decode(fallback.message_ulaw_b64), 2))
            return
        status = STATUS_OF.get(termination.reason, fallback.status)
        headers = [("Retry-After", "5")] if status == 503 else []
        core = self._transport.core(self._local)
        self._transport.perform(self._local, core.reject(self.dialog, status, self._loop.time(), headers=headers))

    def hang_up(self, termination: Termination) -> None:
        """BYE with the reason for people who trace."""
        core = self._transport.core(self._local)
        actions = core.bye(self.dialog, self._loop.time(), f'callbus;text="{termination.reason}"')
        self._transport.perform(self._local, actions)

    def close(self) -> None:
        """Whatever went wrong: the dialog is over, with a BYE or a final response if nobody said so yet."""
        core = self._transport.core(self._local)
        self._transport.perform(self._local, core.bye(self.dialog, self._loop.time()))

    def send_now(self) -> None:
        """A talkspurt begins."""
        self.rtp.send_now(self._loop.time())

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""
        return self.rtp.statistics()
