"""A call of ours on its way to somebody: INVITE over one server of the trunk after the other, until an answer counts.

Used for outbound calls and for the target of a bridged transfer. Exactly one of `DialListener.picked_up` and
`not_reached` comes, unless `give_up` was first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from libs.call_leg.numbers import ANONYMOUS
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from libs.sip import events as sip
from libs.sip.errors import SdpError, SipParseError, SipStateError
from libs.sip.sdp import LocalMedia, SessionDescription, make_offer
from libs.sip.uri import SipUri
from libs.sip.user_agent import OutgoingCall
from services.sip_gateway.exchange import Exchange
from services.sip_gateway.negotiation import Agreed, Refusal, accepted_answer
from services.sip_gateway.outcomes import is_worth_another_server, termination_of
from services.sip_gateway.trace import call_id_of
from services.sip_gateway.transport import Local
from services.sip_gateway.trunk import Trunk
from services.sip_gateway.trunks import DEFAULT_PORTS, TrunkConfig

log = get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """Whom to call over which trunk, for which call. `caller` is a number, a SIP user, or `anonymous`."""

    org: str
    call: str
    trunk: Trunk
    target_uri: str
    caller: str
    ring_timeout_s: float
    headers: tuple[tuple[str, str], ...] = ()


class DialListener(Protocol):
    """Told how the call fares."""

    def rang(self, status: int, early: SessionDescription | None) -> None:
        """A provisional response: 180, 183 and the like; `early` with early media."""

    def picked_up(self, local: Local, dialog: str, media: Agreed) -> None:
        """Answered, and the media agreed on. The dialog's events are the listener's from here on."""

    def not_reached(self, termination: Termination, status: int | None) -> None:
        """No conversation came of it."""


def target_uri(trunk: TrunkConfig, to: str) -> str:
    """The request URI for a number, an extension, or a SIP URI as it is."""
    if to.lower().startswith(("sip:", "sips:")):
        return to
    host, port = trunk.server or "", trunk.port
    uri = str(SipUri.build(to, host, port if port not in (None, DEFAULT_PORTS[trunk.transport]) else None))
    return uri if trunk.transport == "udp" else f"{uri};transport={trunk.transport}"


class Dialling:
    """One order. `owners` of the exchange name it for its dialogs."""

    def __init__(self, exchange: Exchange, order: Order, media: LocalMedia, listener: DialListener) -> None:
        self._exchange = exchange
        self._order = order
        self._listener: DialListener | None = listener
        self._offer = make_offer(media)
        self._destinations = list(order.trunk.destinations)
        self._local: Local | None = None
        self._dialog = ""
        self._rang = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Send the INVITE."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._order.ring_timeout_s, self._ring_timed_out)
        if not self._destinations:
            self._over(Termination.of(Reason.TRUNK_FAILED, "the trunk's server is not known yet"), None)
            return
        self._next_server()

    def _next_server(self) -> None:
        destination = self._destinations.pop(0)
        trunk, exchange = self._order.trunk, self._exchange
        local = self._local = trunk.local(destination)
        try:
            dialog, actions = exchange.transport.core(local).invite(self._invite(destination), exchange.now)
        except (SipParseError, SdpError) as error:
            self._over(Termination.of(Reason.NUMBER_INVALID, str(error)), None)
            return
        except SipStateError as error:
            self._over(Termination.of(Reason.AT_CAPACITY, str(error)), None)
            return
        self._dialog = dialog
        exchange.owners[dialog] = self
        first = next((action for action in actions if isinstance(action, sip.Send)), None)
        if first is not None:
            self._exchange.trace.follow(call_id_of(first.data) or b"", self._order.org, self._order.call)
        exchange.transport.perform(local, actions)

    def _invite(self, destination: tuple[str, int]) -> OutgoingCall:
        order, config = self._order, self._order.trunk.config
        is_anonymous = order.caller == ANONYMOUS
        shown = config.caller or config.username if is_anonymous else order.caller
        user = config.from_user or shown or config.username or "callbus"
        login = config.login
        return OutgoingCall(
            target_uri=order.target_uri,
            destination=destination,
            from_uri=str(SipUri.build(user, config.domain)),
            sdp=self._offer.serialize(),
            headers=order.headers,
            asserted_identity=str(SipUri.build(shown, config.domain)) if config.identity and shown else "",
            is_anonymous=is_anonymous,
            credentials=None if login is None else lambda realm: login,
            route=(f"<sip:{config.outbound_proxy};lr>",) if config.outbound_proxy else (),
        )

    # -- what comes back -----------------------------------------------------------------------------------------

    def on_sip(self, event: sip.Action) -> None:
        """Ringing, answered, refused, ended."""
        match event:
            case sip.Ringing():
                self._ringing(event)
            case sip.Answered():
                self._answered(event)
            case sip.Rejected():
                self._forget()
                if self._destinations and is_worth_another_server(event.status):
                    log.info("the trunk's next server is tried", trunk=self._order.trunk.config.name,
                             status=event.status)  # fmt: skip
                    self._next_server()
                    return
                self._over(termination_of(event.status, event.reason, event.headers), event.status)
            case sip.Ended():
                self._forget()
                if event.cause is sip.EndCause.TRANSACTION_TIMEOUT and self._destinations:
                    self._next_server()
                    return
                silent = Termination.of(Reason.TRUNK_FAILED, f"the trunk does not answer ({event.reason})")
                self._over(silent, event.status)
            case _:
                pass

    def _ringing(self, event: sip.Ringing) -> None:
        if self._listener is not None and (event.status != self._rang or event.sdp is not None):
            self._rang = event.status
            self._listener.rang(event.status, event.sdp)

    def _answered(self, event: sip.Answered) -> None:
        listener, local = self._listener, self._local
        assert local is not None
        if listener is None:
            return
        self._forget()
        try:
            media = accepted_answer(self._offer, event.sdp)
        except Refusal as refusal:
            # the core has acknowledged the 2xx: what cannot be served ends with a BYE (RFC 3261 §13.2.2.4)
            self._exchange.tell(local, lambda core, now: core.bye(self._dialog, now, "SIP;cause=488"))
            self._over(refusal.termination, 200)
            return
        self._stop()
        listener.picked_up(local, self._dialog, media)

    # -- ends -------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """CANCEL; nothing more is told. An answer that crosses it gets ACK and BYE from the core."""
        self._stop()
        self._cancel()

    def _ring_timed_out(self) -> None:
        limit_s = self._order.ring_timeout_s
        self._cancel()
        self._over(Termination.of(Reason.CALLEE_NO_ANSWER, f"nobody picked up within {limit_s:g} s"), None)

    def _cancel(self) -> None:
        if self._local is not None and self._exchange.owners.get(self._dialog) is self:
            self._forget()
            self._exchange.tell(self._local, lambda core, now: core.cancel(self._dialog, now))

    def _forget(self) -> None:
        self._exchange.owners.pop(self._dialog, None)

    def _stop(self) -> None:
        self._listener = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self, termination: Termination, status: int | None) -> None:
        listener = self._listener
        self._stop()
        if listener is not None:
            listener.not_reached(termination, status)
