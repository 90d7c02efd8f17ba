"""SIP calls as entrances of a call leg: a dialog on one side, RTP on the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from libs.audio.dtmf import DtmfError
from libs.contracts.commands import LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from libs.sip import events as sip
from libs.sip.errors import SdpError, SipStateError
from libs.sip.sdp import Direction, Negotiated, SessionDescription, accept_answer
from libs.sip.session_layer import redirected
from libs.sip.uri import SipUri
from services.sip_gateway.negotiation import Agreed
from services.sip_gateway.outcomes import said
from services.sip_gateway.transfer import Transfers

if TYPE_CHECKING:
    from libs.audio.codec import AudioCodec
    from libs.call_leg.audio import CallAudio
    from libs.call_leg.shell import LegShell
    from services.sip_gateway.exchange import Exchange
    from services.sip_gateway.rtp_ports import RtpSocket
    from services.sip_gateway.rtp_session import RtpSession
    from services.sip_gateway.transport import Local
    from services.sip_gateway.trunks import TrunkConfig

log = get_logger()

HOLD_AGAIN_S = 0.5  # while an offer of the other side is open
HOLD_TRIES = 8
# What a caller is told when no agent takes the call and the route names no status of its own.
STATUS_OF: dict[Reason, int] = {
    Reason.NO_ROUTE: 404,
    Reason.UNKNOWN_AGENT: 480,
    Reason.AT_CAPACITY: 503,
    Reason.TOO_MANY_ATTEMPTS: 503,
    Reason.BUDGET_SPENT: 503,
    Reason.DRAINING: 503,
    Reason.NO_COMMON_CODEC: 488,
    Reason.MALFORMED_OFFER: 400,
    Reason.INTERNAL_ERROR: 500,
    Reason.OUTSIDE_HOURS: 480,
    Reason.NOT_ACCEPTED: 480,
    Reason.OPERATOR_DECLINED: 603,
    Reason.OPERATOR_HUNG_UP: 603,
    Reason.AGENT_HUNG_UP: 603,
}
RETRY_AFTER = [("Retry-After", "5")]


class SipCall:
    """What inbound and outbound calls have in common once there is a dialog; half of `libs.call_leg.ports.Entrance`.

    Commands on a dialog that ended meanwhile are harmless. `shell` is set when the call has its leg.
    """

    shell: LegShell
    remote_hung_up: Reason

    def __init__(
        self, exchange: Exchange, trunk: TrunkConfig, local: Local, sock: RtpSocket, media: Agreed, audio: CallAudio
    ) -> None:
        self._exchange = exchange
        self.trunk = trunk
        self.local = local
        self.dialog = ""
        self.peer_host = ""
        self.sock = sock
        self.audio = audio
        self.rtp: RtpSession = exchange.open_rtp(sock, media, audio)
        self.rtp.on_digit = self._digit
        self._media = media
        self._loop = asyncio.get_running_loop()
        self._transfers = Transfers(exchange, self)
        self._hold_offer: SessionDescription | None = None
        self._hold_wanted = False
        self._left = asyncio.Event()  # the other side, while a message is played
        self.resumed_at = 0.0  # when a hold ended: before it the caller owed us no RTP

    @property
    def codec(self) -> AudioCodec:
        """What was agreed on, or offered."""
        return self._media.format.codec

    @property
    def is_held(self) -> bool:
        """Whether the other side began with a hold."""
        return self._media.is_held

    # -- the leg asks ---------------------------------------------------------------------------------------------

    def objection(self, command: LegCommand) -> str | None:
        """What cannot be done on this trunk, or now."""
        if isinstance(command, Transfer):
            return self._transfers.objection(command)
        return None

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """REFER, or a second call that is joined with this one."""
        return self._transfers.begin(command)

    def cancel_transfer(self) -> None:
        """Give up what runs; a REFER that is under way cannot be taken back, only be left alone."""
        self._transfers.cancel()

    def send_dtmf(self, digits: str) -> None:
        """RFC 4733 where it was agreed on, else tones."""
        try:
            self.rtp.send_digits(digits, self._loop.time())
        except DtmfError as error:  # the command's own pattern lets none through
            log.warning("keys were not pressed", problem=str(error))

    def hold(self, held: bool) -> None:
        """Re-INVITE with sendonly or sendrecv (RFC 3264 §8.4)."""
        self._hold_wanted = held
        self._hold(held, HOLD_TRIES)

    def _hold(self, held: bool, tries: int) -> None:
        if held is not self._hold_wanted:
            return  # changed its mind meanwhile
        direction = Direction.SENDONLY if held else Direction.SENDRECV
        try:
            self._exchange.command(self.local, lambda core, now: core.hold(self.dialog, now, direction))
        except SipStateError as error:  # an offer is open; or the dialog is gone
            if tries and self.dialog in self._exchange.owners:
                self._loop.call_later(HOLD_AGAIN_S, self._hold, held, tries - 1)
            else:
                log.warning("hold was not offered", held=held, problem=str(error))
            return
        self._hold_offer = redirected(SessionDescription.parse(self._media.sdp), direction)

    def target_is_silent(self, now: float, limit_s: float) -> bool:
        """Whether the target of a bridged transfer has vanished."""
        return self._transfers.target_is_silent(now, limit_s)

    def send_now(self) -> None:
        """A talkspurt begins."""
        self.rtp.send_now(self._loop.time())

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far."""
        return self.rtp.statistics()

    def hang_up(self, termination: Termination) -> None:
        """BYE with the reason for people who trace."""
        cause = f'callbus;text="{termination.reason}"'
        self._exchange.tell(self.local, lambda core, now: core.bye(self.dialog, now, cause))

    def close(self) -> None:
        """Whatever went wrong: the dialog is over, with a BYE or a final response if nobody said so yet."""
        self._transfers.close()
        self._exchange.owners.pop(self.dialog, None)
        self._exchange.tell(self.local, lambda core, now: core.bye(self.dialog, now))
        self._exchange.close_rtp(self.rtp, self.sock)

    # -- the other side ---------------------------------------------------------------------------------------------

    def on_sip(self, event: sip.Action) -> None:
        """What happens in the dialog."""
        match event:
            case sip.Ended():
                self._ended(event)
            case sip.DtmfInfo():
                self._transfers.dtmf(event.digit)
                self._digit(event.digit)
            case sip.SessionChanged():
                self._session_changed(event.negotiated)
            case sip.Answered():
                self._reoffer_answered(event.sdp)
            case sip.ReinviteRejected():
                self._hold_offer = None
                self._exchange.counters["reinvite_rejected"] += 1
                log.warning("the other side refused our new offer", status=event.status, reason=event.reason)
            case sip.ReferAnswered() | sip.TransferProgress():
                self._transfers.on_sip(event)
            case sip.TransferRequested():
                # the core has answered 603: nobody on the line makes us call others
                self._exchange.counters["refer_refused"] += 1
                log.info("a REFER of the other side was refused", target=str(event.target)[:100])
            case _:
                pass

    def _ended(self, event: sip.Ended) -> None:
        self._exchange.owners.pop(self.dialog, None)
        reasons = {
            sip.EndCause.REMOTE_BYE: self.remote_hung_up,
            sip.EndCause.LOCAL_BYE: Reason.NO_COMMON_CODEC,  # not by us, whose leg has ended then: a bad late answer
            sip.EndCause.NO_ACK: Reason.NO_ACK,
            sip.EndCause.TRANSACTION_TIMEOUT: self.remote_hung_up,
        }
        self._transfers.dialog_ended()
        reason = reasons.get(event.cause)
        if reason is Reason.CALLER_HUNG_UP and self.shell.leg.answered_at is None:
            reason = Reason.CALLER_CANCELLED  # BYE in an early dialog (RFC 3261 §15): given up as by CANCEL
        if reason is not None:
            self.shell.caller_gone(reason, said(event.reason))

    def _digit(self, digit: str) -> None:
        self.shell.dtmf(digit)

    def _session_changed(self, negotiated: Negotiated) -> None:
        media = self._media = Agreed.of(negotiated)
        self.rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
        self._follow_hold(media)

    def _reoffer_answered(self, answer: SessionDescription | None) -> None:
        """Our hold is answered: where to send may have changed, who may send has."""
        offer, self._hold_offer = self._hold_offer, None
        if offer is None or answer is None:
            return
        try:
            media = Agreed.of(accept_answer(offer, answer), offer.serialize())
        except SdpError as error:
            log.warning("the answer to our new offer cannot be used", problem=str(error))
            return
        self._media = media
        self.rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
        if not self._hold_wanted:
            self.resumed_at = self._loop.time()
        self._follow_hold(media)

    def _follow_hold(self, media: Agreed) -> None:
        """Whether the other side holds. While we do, its answers say no more than that they heard us."""
        is_held = not media.may_send if self._hold_wanted else media.is_held
        if self.shell.leg.held and not is_held:
            self.resumed_at = self._loop.time()
        self.shell.set_held(is_held)


class InboundCall(SipCall):
    """A call that came to us. With `announces` it has no leg: it hears its route's message and is over."""

    remote_hung_up = Reason.CALLER_HUNG_UP
    announces = False
    fallback: Fallback | None = None  # set when the leg has ended and a message is to be played

    def dial(self) -> None:
        """Never asked of an inbound call."""

    def ring(self) -> None:
        """180 Ringing."""
        self._exchange.tell(self.local, lambda core, now: core.ring(self.dialog, now))

    def answer(self) -> None:
        """200 OK, and RTP from now on."""
        if self._exchange.tell(self.local, lambda core, now: core.answer(self.dialog, self._media.sdp, now)):
            self.rtp.answered(self._loop.time())  # else a CANCEL crossed; its event ends the leg

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """The route's message or its other number where it has one, else a final response."""
        if fallback.has_message and self._exchange.last_words.has_room:
            self.fallback = fallback
        elif fallback.kind == "transfer" and fallback.number:
            self.redirect(fallback.number)
        else:
            self.refuse(STATUS_OF.get(termination.reason, fallback.status))

    def refuse(self, status: int) -> None:
        """A final response."""
        headers = RETRY_AFTER if status == 503 else []
        self._exchange.tell(self.local, lambda core, now: core.reject(self.dialog, status, now, headers=headers))

    def redirect(self, number: str) -> None:
        """302: the caller's side is to call this number (RFC 3261 §21.3.3)."""
        contact = ("Contact", f"<{SipUri.build(number, self.trunk.server or self.peer_host)}>")
        self._exchange.tell(self.local, lambda core, now: core.reject(self.dialog, 302, now, headers=[contact]))

    async def play(self, fallback: Fallback) -> None:
        """No agent came: the route's message, what the caller says to it (`voicemail`), then BYE."""
        self.answer()
        try:
            await self._exchange.last_words.say(fallback, self.audio, self._left)
        finally:
            self.hang_up(Termination.of(Reason.FALLBACK_PLAYED))

    def on_sip(self, event: sip.Action) -> None:
        """CANCEL and the ACK, beside what happens in any dialog."""
        match event:
            case sip.Cancelled() | sip.Ended() if self.announces or self.fallback is not None:
                self._exchange.owners.pop(self.dialog, None)
                self._left.set()
            case sip.Cancelled():
                self._exchange.owners.pop(self.dialog, None)
                self.shell.caller_gone(Reason.CALLER_CANCELLED, said(event.reason))
            case sip.Confirmed():
                if event.answer is not None:
                    self._late_answer(event.answer)
            case _ if not self.announces:
                super().on_sip(event)

    def _digit(self, digit: str) -> None:
        if not self.announces:
            super()._digit(digit)

    def _late_answer(self, answer: SessionDescription) -> None:
        """The ACK brought the answer to our offer: where to send. The codec was the only one offered."""
        media = next((m for m in answer.media if m.kind == "audio" and m.port), None)
        if media is not None:
            may_send = answer.direction(media).receives
            self.rtp.redirect((answer.media_host(media), media.port), may_send=may_send)
        elif not self.announces:
            self.shell.end(Termination.of(Reason.NO_COMMON_CODEC, "the ACK's answer refused our audio"))
