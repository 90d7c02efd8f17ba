"""Transfers of a call: blind by REFER (RFC 3515), or bridged, where the gateway calls the target and joins the two.

What ends a transfer, and its time limit, is the leg's (`libs.call_leg.transfer`); this does what SIP and RTP need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from libs.call_leg.audio import CallAudio
from libs.call_leg.fences import NotAllowedError, OutboundFence
from libs.contracts.commands import Transfer
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from libs.sip import events as sip
from libs.sip.errors import SipParseError, SipStateError
from libs.sip.sdp import SessionDescription, make_offer
from libs.sip.uri import SipUri
from services.sip_gateway.negotiation import Agreed, Refusal, local_media, offered
from services.sip_gateway.outcomes import said
from services.sip_gateway.outgoing import Dialling, Order, target_uri

if TYPE_CHECKING:
    from services.sip_gateway.call import SipCall
    from services.sip_gateway.exchange import Exchange
    from services.sip_gateway.rtp_ports import RtpSocket
    from services.sip_gateway.rtp_session import RtpSession
    from services.sip_gateway.transport import Local
    from services.sip_gateway.trunk import Trunk

log = get_logger()

RING_S = 60.0  # the leg's limit of a transfer stands before it
ACCEPTED = 202


class Transfers:
    """One per call; at most one transfer runs."""

    def __init__(self, exchange: Exchange, call: SipCall) -> None:
        self._exchange = exchange
        self._call = call
        self._running: Refer | Bridge | None = None

    def objection(self, command: Transfer) -> str | None:
        """Why not, in one sentence."""
        mode = self._mode(command)
        trunk = self._trunk()
        try:
            self._fence(mode).number(command.target)
        except NotAllowedError as error:
            return str(error)
        if mode == "refer":
            if command.announcement:
                return "a blind transfer announces nothing: leave the announcement out, or use mode 'bridge'"
            return None
        if trunk is None:
            return "a bridged transfer calls the target through a trunk, and none with a server is usable now"
        return None

    def _mode(self, command: Transfer) -> Literal["refer", "bridge"]:
        if command.mode != "auto":
            return command.mode
        return "bridge" if command.announcement else self._call.trunk.transfer

    def _trunk(self) -> Trunk | None:
        """The call's own trunk if it can be called through, else the first that can."""
        trunks = self._exchange.trunks
        own = trunks.named(self._call.trunk.name)
        if own is not None and own.is_usable:
            return own
        return next((trunk for trunk in trunks if trunk.is_usable), None)

    def _fence(self, mode: Literal["refer", "bridge"]) -> OutboundFence:
        """Of the trunk that is to dial: ours for a bridge, the one that the call came by for a REFER."""
        own = self._exchange.trunks.named(self._call.trunk.name)
        trunk = self._trunk() if mode == "bridge" else own
        return trunk.fence if trunk is not None else OutboundFence(self._call.trunk.rules)

    def begin(self, command: Transfer) -> Literal["refer", "bridge"]:
        """Start; what it is called in events."""
        mode, trunk = self._mode(command), self._trunk()
        call = self._call
        try:
            target = self._fence(mode).number(command.target)
            if mode == "bridge" and trunk is not None:
                trunk.fence.attempt(self._exchange.now)
                bridge = self._running = Bridge(self._exchange, call, trunk, target)
                bridge.start()
            else:
                refer = self._running = Refer(self._exchange, call, self._refer_to(target))
                refer.start()
        except NotAllowedError as error:
            call.shell.transfer_ended(False, None, str(error))
        return mode

    def _refer_to(self, target: str) -> str:
        """A number belongs to whom we talk with: its trunk's server, or the peer itself."""
        config = self._call.trunk
        if config.server or target.lower().startswith(("sip:", "sips:")):
            return target_uri(config, target)
        return str(SipUri.build(target, self._call.peer_host))

    def cancel(self) -> None:
        """The leg has given it up."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def on_sip(self, event: sip.ReferAnswered | sip.TransferProgress) -> None:
        """How a REFER fares."""
        if isinstance(self._running, Refer):
            self._running.on_sip(event)

    def dialog_ended(self) -> None:
        """The other side has gone: after an accepted REFER that is what it was asked for."""
        if isinstance(self._running, Refer):
            self._running.dialog_ended()

    def dtmf(self, digit: str) -> None:
        """The caller pressed a key by INFO: a bridged target is to hear it, as it hears those in RTP."""
        if isinstance(self._running, Bridge):
            self._running.send_dtmf(digit)

    def target_is_silent(self, now: float, limit_s: float) -> bool:
        """Whether a bridged target has vanished: no RTP for so long, though it does not hold."""
        return isinstance(self._running, Bridge) and self._running.is_silent(now, limit_s)

    def close(self) -> None:
        """The call is over."""
        self.cancel()


class Refer:
    """A blind transfer."""

    def __init__(self, exchange: Exchange, call: SipCall, uri: str) -> None:
        self._exchange = exchange
        self._call = call
        self._uri = uri
        self._is_accepted = False
        self._is_over = False

    def start(self) -> None:
        """REFER; who asks stands in Referred-By (RFC 3892)."""
        call = self._call
        config = call.trunk
        referred_by = str(SipUri.build(config.username or config.caller, config.domain)) if config.domain else ""
        try:
            self._exchange.command(
                call.local, lambda core, now: core.refer(call.dialog, self._uri, now, referred_by)
            )  # fmt: skip
        except (SipStateError, SipParseError) as error:
            self._end(False, None, str(error))

    def on_sip(self, event: sip.ReferAnswered | sip.TransferProgress) -> None:
        """The answer, then the NOTIFYs."""
        if self._is_over:
            return
        if isinstance(event, sip.ReferAnswered):
            self._is_accepted = event.is_accepted
            if not event.is_accepted:
                self._end(False, event.status, f"REFER was refused: {said(event.reason)}")
        elif not event.is_final:
            self._call.shell.transfer_progress(event.status, said(event.reason))
        else:
            self._end(200 <= event.status < 300, event.status or None, said(event.reason))

    def dialog_ended(self) -> None:
        """Some providers say BYE instead of the last NOTIFY."""
        if self._is_accepted and not self._is_over:
            self._end(True, ACCEPTED, "the other side accepted and left")

    def _end(self, ok: bool, status: int | None, detail: str) -> None:
        self._is_over = True
        self._call.shell.transfer_ended(ok, status, detail)

    def cancel(self) -> None:
        """It cannot be taken back: what comes of it is not heard any more."""
        self._is_over = True


class Bridge:
    """A second call to the target, joined with the first when it is answered. `Dialling` tells how it fares.

    The `libs.call_leg.ports.TransferTarget`: the agent may speak to it before.
    """

    def __init__(self, exchange: Exchange, call: SipCall, trunk: Trunk, target: str) -> None:
        self._exchange = exchange
        self._call = call
        self._trunk = trunk
        self._target = target
        self._dialling: Dialling | None = None
        self._sock: RtpSocket | None = None
        self._rtp: RtpSession | None = None
        self._local: Local | None = None
        self._dialog = ""
        self._is_joined = False
        self._spoke_at: float | None = None  # the latest time at which RTP was not owed: the answer, a hold's end

    def start(self) -> None:
        """Call the target; the number that it sees is the other side's where the trunk allows any, else ours."""
        call, config, exchange = self._call, self._trunk.config, self._exchange
        destination = self._trunk.destinations[0]
        local = self._trunk.local(destination)
        try:
            self._sock = exchange.rtp_socket(local)
        except Refusal as refusal:
            call.shell.transfer_ended(False, None, refusal.termination.detail)
            return
        media = local_media(config, local.host, self._sock.getsockname()[1])
        new = call.shell.new
        # never started: the bus hears and says nothing on this side
        audio = CallAudio(new.org, exchange.gw, new.call, _nowhere, rate_hz=8000)
        self._rtp = exchange.open_rtp(self._sock, offered(make_offer(media), media), audio)
        self._rtp.early()
        caller = config.caller or config.username or new.callee
        order = Order(new.org, new.call, self._trunk, target_uri(config, self._target), caller, RING_S)
        self._dialling = Dialling(exchange, order, media, self)
        self._dialling.start()

    # -- Dialling tells ------------------------------------------------------------------------------------------

    def rang(self, status: int, early: SessionDescription | None) -> None:
        """The target is alerted."""
        self._call.shell.transfer_progress(status)

    def not_reached(self, termination: Termination, status: int | None) -> None:
        """The agent goes on."""
        self._release()
        self._call.shell.transfer_ended(False, status, f"{termination.reason}: {termination.detail}")

    def picked_up(self, local: Local, dialog: str, media: Agreed) -> None:
        """It is there: the leg lets it listen, or joins the two."""
        assert self._rtp is not None
        self._dialling, self._local, self._dialog = None, local, dialog
        self._exchange.owners[dialog] = self
        self._rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
        self._rtp.answered(self._exchange.now)
        self._spoke_at = None if media.is_held else self._exchange.now
        self._call.shell.transfer_reached(self)

    # -- the leg asks --------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """The target hears the announcement."""
        if self._rtp is not None:
            self._call.rtp.announce_to(self._rtp)

    def join(self) -> None:
        """The two hear each other."""
        if self._rtp is not None:
            self._is_joined = True
            self._rtp.bridge_to(self._call.rtp)

    # -- the target's dialog -------------------------------------------------------------------------------------

    def on_sip(self, event: sip.Action) -> None:
        """Its end is the end of the call; what else it wants of its media is followed."""
        match event:
            case sip.Ended():
                self._exchange.owners.pop(self._dialog, None)
                self._dialog = ""
                if not self._is_joined:
                    self._release()
                    self._call.shell.transfer_ended(False, None, "the target hung up before it was joined")
                    return
                self._call.shell.end(Termination.of(Reason.TRANSFERRED, "the target hung up"))
            case sip.SessionChanged() if self._rtp is not None:
                media = Agreed.of(event.negotiated)
                self._rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
                self._spoke_at = None if media.is_held else self._exchange.now
            case sip.DtmfInfo() if self._is_joined:
                self._call.send_dtmf(event.digit)
            case _:
                pass

    def send_dtmf(self, digit: str) -> None:
        """To the target, once it is there."""
        if self._rtp is not None and self._rtp.is_bridged:
            self._rtp.send_digits(digit, self._exchange.now)

    def is_silent(self, now: float, limit_s: float) -> bool:
        """No RTP of the target for so long."""
        if self._rtp is None or self._spoke_at is None or not self._is_joined:
            return False
        return now - max(self._rtp.received_at or 0.0, self._spoke_at) > limit_s

    def cancel(self) -> None:
        """The call is over, or the agent wants it back."""
        if self._dialling is not None:
            self._dialling.give_up()
            self._dialling = None
        if self._dialog and self._local is not None:
            dialog, self._dialog = self._dialog, ""
            self._exchange.owners.pop(dialog, None)
            self._exchange.tell(self._local, lambda core, now: core.bye(dialog, now))
        self._release()

    def _release(self) -> None:
        rtp, sock = self._rtp, self._sock
        self._rtp = self._sock = None
        if rtp is not None and sock is not None:
            self._exchange.close_rtp(rtp, sock)


def _nowhere(subject: str, payload: bytes) -> bool:
    return False
