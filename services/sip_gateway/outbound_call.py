"""A call that we place, as the entrance of its leg: first the agent is ready, then the number is dialled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libs.audio.codec import codec_named
from libs.call_leg.audio import CallAudio
from libs.call_leg.numbers import normalise
from libs.call_leg.ports import NewCall
from libs.contracts.config import Fallback
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.sip.sdp import LocalMedia, SessionDescription, make_offer
from services.sip_gateway.call import SipCall
from services.sip_gateway.negotiation import Agreed, Refusal, accepted_answer, local_media, offered
from services.sip_gateway.outgoing import Dialling, Order, target_uri

if TYPE_CHECKING:
    from libs.call_leg.originate import Placement
    from services.sip_gateway.exchange import Exchange
    from services.sip_gateway.rtp_ports import RtpSocket
    from services.sip_gateway.transport import Local
    from services.sip_gateway.trunk import Trunk


class OutboundCall(SipCall):
    """`Dialling` tells how the call fares; the leg hears of it."""

    remote_hung_up = Reason.CALLEE_HUNG_UP

    def __init__(
        self, exchange: Exchange, order: Order, local: Local, sock: RtpSocket, media: LocalMedia, audio: CallAudio
    ) -> None:
        offer = make_offer(media)
        super().__init__(exchange, order.trunk.config, local, sock, offered(offer, media), audio)
        self._offer = offer
        self._dialling: Dialling | None = None
        self._order = order
        self._local_media = media
        self.peer_host = order.trunk.destinations[0][0] if order.trunk.destinations else ""
        self.rtp.early()  # what comes before the answer is ringing and announcements

    def new_call(self, placement: Placement) -> NewCall:
        """What the leg must know."""
        codec = self.codec
        state = CallState(codec=codec.encoding_name, rate_hz=codec.rate_hz, answered=False)
        return NewCall(
            call=placement.call, org=placement.org, entrance="sip", direction="outbound", caller=self._order.caller,
            callee=placement.number, agent=placement.agent, route=None, fallback=Fallback(), state=state,
            ring_timeout_s=self._order.ring_timeout_s,
        )  # fmt: skip

    # -- the leg asks -----------------------------------------------------------------------------------------

    def dial(self) -> None:
        """The agent is ready."""
        self._dialling = Dialling(self._exchange, self._order, self._local_media, self)
        self._dialling.start()

    def answer(self) -> None:
        """Never asked of an outbound call."""

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """Nobody was called yet, or somebody rings."""
        self.hang_up(termination)

    def hang_up(self, termination: Termination) -> None:
        """CANCEL while it rings, then BYE."""
        if self._dialling is not None:
            self._dialling.give_up()
            self._dialling = None
        elif self.dialog:
            super().hang_up(termination)

    def close(self) -> None:
        """Whatever went wrong: nothing rings on, and nobody stays on the line."""
        if self._dialling is not None:
            self._dialling.give_up()
            self._dialling = None
        super().close()

    # -- Dialling tells ---------------------------------------------------------------------------------------

    def rang(self, status: int, early: SessionDescription | None) -> None:
        """The callee is alerted. Early media is received, so that its source is known, and goes no further."""
        if early is not None:
            try:
                media = accepted_answer(self._offer, early)
            except Refusal:
                early = None
            else:
                self.rtp.redirect(media.remote, may_send=False, media=media.format)
        self.shell.ringing(status, early is not None)

    def picked_up(self, local: Local, dialog: str, media: Agreed) -> None:
        """The callee and the agent hear each other from here on."""
        self._dialling = None
        self.local, self.dialog, self._media = local, dialog, media
        self._exchange.owners[dialog] = self
        self.rtp.redirect(media.remote, may_send=media.may_send, media=media.format)
        self.rtp.answered(self._loop.time())
        codec = media.format.codec
        self.shell.answered(codec.encoding_name, codec.rate_hz)
        if media.is_held:
            self.shell.set_held(True)

    def not_reached(self, termination: Termination, status: int | None) -> None:
        """Busy, no answer, declined, the trunk failed."""
        self._dialling = None
        self.shell.refused(termination)


def place(exchange: Exchange, trunk: Trunk, placement: Placement) -> OutboundCall:
    """A call through a trunk, not dialled yet.

    Raises:
        Refusal: no server is known, or no port is free.
    """
    config, request = trunk.config, placement.request
    if not trunk.destinations:
        raise Refusal(Termination.of(Reason.TRUNK_FAILED, f"the server of trunk {config.name} is not known yet"))
    caller = normalise(request.caller, config.country) if request.caller else config.caller or config.username
    call = placement.call
    order = Order(
        placement.org, call, trunk, target_uri(config, placement.number), caller or "anonymous", request.ring_timeout_s
    )
    local = trunk.local(trunk.destinations[0])
    sock = exchange.rtp_socket(local)
    media = local_media(config, local.host, sock.getsockname()[1])
    rate_hz = codec_named(media.codecs[0]).rate_hz
    audio = CallAudio(placement.org, exchange.gw, call, exchange.send_frame, rate_hz=rate_hz)
    return OutboundCall(exchange, order, local, sock, media, audio)
