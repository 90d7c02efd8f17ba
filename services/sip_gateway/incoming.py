"""A call comes in: whose trunk, which route and agent, what media; then it has a leg, or a refusal and a record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

from libs.call_leg.admission import Admitted, Arrival, Refused
from libs.call_leg.admission_shell import Admission
from libs.call_leg.audio import CallAudio
from libs.call_leg.gateway import CallLegs
from libs.call_leg.numbers import normalise
from libs.call_leg.ports import NewCall
from libs.contracts.config import Fallback
from libs.contracts.ids import new_call_id
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.runtime.log import get_logger
from libs.sip import events as sip
from libs.sip.uri import SipUri
from services.sip_gateway.call import RETRY_AFTER, STATUS_OF, InboundCall
from services.sip_gateway.exchange import Exchange
from services.sip_gateway.negotiation import Refusal, answer_offer, local_media
from services.sip_gateway.transport import Local
from services.sip_gateway.trunks import TrunkConfig

log = get_logger()

Spawn = Callable[[Coroutine[None, None, None]], object]


class Incoming:
    """`serve` runs a call that has its leg; `spawn` starts a task of the gateway's group."""

    def __init__(
        self, exchange: Exchange, legs: CallLegs, admission: Admission,
        serve: Callable[[InboundCall, str, str], None], spawn: Spawn,
    ) -> None:  # fmt: skip
        self._exchange = exchange
        self._legs = legs
        self._admission = admission
        self._serve = serve
        self._spawn = spawn

    # -- from SIP ---------------------------------------------------------------------------------------------

    def invite(self, local: Local, event: sip.IncomingCall) -> None:
        """An INVITE with a new dialog."""
        counters = self._exchange.counters
        counters["invites"] += 1
        trunk = self._exchange.trunks.table.of_request(event.source[0], event.request_uri.user, event.username)
        arrival = self._arrival(event, trunk)
        decided = self._admission.decide(arrival)
        if isinstance(decided, Admitted) and decided.limits is not None:
            waiting = _Waiting()
            self._exchange.owners[event.dialog] = waiting
            self._spawn(self._secure(local, event, arrival, decided, waiting))
            return
        self._decided(local, event, arrival, decided)

    def refused_by_core(self, event: sip.InviteRefused) -> None:
        """The SIP core could make nothing of the offer, and has said so."""
        self._exchange.counters["invites"] += 1
        trunk = self._exchange.trunks.table.of_request(event.source[0], event.request_uri.user)
        arrival = self._arrival(event, trunk)
        decided = self._admission.decide(arrival)
        reason = Reason.NO_COMMON_CODEC if event.status == 488 else Reason.MALFORMED_OFFER
        self._record(arrival, _refused(decided, Termination.of(reason, event.reason)), event.call_id)

    def _arrival(self, event: sip.IncomingCall | sip.InviteRefused, trunk: TrunkConfig) -> Arrival:
        table = self._exchange.trunks.table
        called = event.request_uri.user
        if table.is_contact(called):
            called = event.to_uri.user  # a trunk rings our contact; the number that was dialled stands in To
        caller = event.from_uri.user
        if isinstance(event, sip.IncomingCall):
            caller = _asserted(event, trunk) or caller
        name = None if trunk is table.direct else trunk.name
        return Arrival(new_call_id(), "sip", caller, called, name, trunk.country)

    async def _secure(
        self, local: Local, event: sip.IncomingCall, arrival: Arrival, admitted: Admitted, waiting: _Waiting
    ) -> None:
        """A place within the organisation's limits is asked for; the caller may give up meanwhile."""
        decided = await self._admission.secure(admitted)
        self._exchange.owners.pop(event.dialog, None)
        if waiting.cancelled:
            if isinstance(decided, Admitted):
                self._admission.release(decided.org, decided.call)
            self._record(arrival, _refused(decided, Termination.of(Reason.CALLER_CANCELLED)), event.call_id)
            return
        self._decided(local, event, arrival, decided)

    # -- decided ------------------------------------------------------------------------------------------------

    def _decided(self, local: Local, event: sip.IncomingCall, arrival: Arrival, decided: Admitted | Refused) -> None:
        trunk = self._exchange.trunks.table.named(arrival.trunk or "") or self._exchange.trunks.table.direct
        if isinstance(decided, Refused):
            self._refuse(local, event, arrival, decided, trunk)
            return
        try:
            self._open(local, event, decided, trunk)
        except Refusal as refusal:
            self._admission.release(decided.org, decided.call)
            self._refuse(local, event, arrival, _refused(decided, refusal.termination), trunk)

    def _open(self, local: Local, event: sip.IncomingCall, admitted: Admitted, trunk: TrunkConfig) -> None:
        route, agent = admitted.route, admitted.agent
        call = self._entrance(local, event, trunk, admitted.org, admitted.call)
        codec = call.codec
        state = CallState(codec=codec.encoding_name, rate_hz=codec.rate_hz)
        new = NewCall(
            call=admitted.call, org=admitted.org, entrance="sip", direction="inbound", caller=admitted.caller,
            callee=admitted.callee, agent=agent, route=route.name, fallback=route.fallback, state=state,
            needs_person=route.answer == "manual", person_timeout_s=route.person_timeout_s,
            answer_delay_s=route.answer_delay_ms / 1000,
        )  # fmt: skip
        call.shell = self._legs.open(new, call)
        call.shell.leg.held = call.is_held
        self._exchange.owners[event.dialog] = call
        log.info("call offered", call=new.call, caller=new.caller, callee=new.callee, agent=agent.name,
                 codec=codec.encoding_name, trunk=trunk.name)  # fmt: skip
        call.ring()
        self._serve(call, new.org, new.call)
        # after the task's first step, which publishes `call.offered`
        asyncio.get_running_loop().call_soon(self._exchange.trace.follow, event.call_id, new.org, new.call)

    def _entrance(self, local: Local, event: sip.IncomingCall, trunk: TrunkConfig, org: str, call: str) -> InboundCall:
        """The call with its media agreed on. Raises Refusal."""
        exchange = self._exchange
        sock = exchange.rtp_socket(local)
        try:
            media = answer_offer(event.offer, local_media(trunk, local.host, sock.getsockname()[1]))
        except Refusal:
            sock.close()
            raise
        audio = CallAudio(org, exchange.gw, call, exchange.send_frame, rate_hz=media.format.codec.rate_hz)
        made = InboundCall(exchange, trunk, local, sock, media, audio)
        made.dialog, made.peer_host = event.dialog, event.source[0]
        return made

    # -- refused --------------------------------------------------------------------------------------------------

    def _refuse(
        self, local: Local, event: sip.IncomingCall, arrival: Arrival, refused: Refused, trunk: TrunkConfig
    ) -> None:
        self._record(arrival, refused, event.call_id)
        fallback = refused.fallback
        reason = refused.termination.reason
        if fallback is not None and reason not in (Reason.DRAINING, Reason.NO_COMMON_CODEC, Reason.MALFORMED_OFFER):
            if fallback.kind == "transfer" and fallback.number:
                contact = ("Contact", f"<{SipUri.build(fallback.number, trunk.server or event.source[0])}>")
                self._reject(local, event.dialog, 302, [contact])  # RFC 3261 §21.3.3
                return
            if fallback.has_message and self._announce(local, event, trunk, refused, fallback):
                return
        self._reject(local, event.dialog, STATUS_OF.get(reason, fallback.status if fallback else 503))

    def _announce(
        self, local: Local, event: sip.IncomingCall, trunk: TrunkConfig, refused: Refused, fallback: Fallback
    ) -> bool:
        """The route's message for a call without a leg; False when there is no way to play it."""
        if not self._exchange.last_words.has_room:
            return False
        try:
            call = self._entrance(local, event, trunk, refused.org, refused.call)
        except Refusal:
            return False
        call.announces = True
        self._exchange.owners[event.dialog] = call
        call.ring()

        async def play() -> None:
            try:
                await call.play(fallback)
            finally:
                call.close()

        self._spawn(play())
        return True

    def _reject(self, local: Local, dialog: str, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        headers = RETRY_AFTER if status == 503 else headers
        self._exchange.tell(local, lambda core, now: core.reject(dialog, status, now, headers=headers))

    def _record(self, arrival: Arrival, refused: Refused, call_id: str) -> None:
        """Every attempt leaves a record and its SIP messages, refused ones included."""
        why = refused.termination
        self._exchange.counters[f"refused_{why.reason}"] += 1
        log.warning("call refused", caller=refused.caller, callee=refused.callee, reason=why.reason, detail=why.detail)
        self._admission.record(arrival, refused)
        trace = self._exchange.trace
        trace.follow(call_id, refused.org, refused.call)
        trace.forget(refused.call, self._exchange.now)  # our answer and its ACK are still told


class _Waiting:
    """A dialog whose call waits for a place."""

    def __init__(self) -> None:
        self.cancelled = False

    def on_sip(self, event: sip.Action) -> None:
        """The caller gave up."""
        self.cancelled |= isinstance(event, sip.Cancelled | sip.Ended)


def _refused(decided: Admitted | Refused, why: Termination) -> Refused:
    """The same call, refused for another reason."""
    route = decided.route
    fallback = route.fallback if route is not None else None
    return Refused(decided.call, decided.org, decided.caller, decided.callee, why, route, fallback)


def _asserted(event: sip.IncomingCall, trunk: TrunkConfig) -> str:
    """The caller that a trunk vouches for (RFC 3325 §5): From may say anything, or nothing for a withheld number.

    Who asked for privacy stays anonymous for us: the number is there for the trunk only (RFC 3323).
    """
    if not trunk.identity or not trunk.server:
        return ""
    privacy = ",".join(event.headers.get("privacy", ())).lower()
    if any(word in privacy for word in ("id", "user", "header")) and "none" not in privacy:
        return "anonymous"
    for value in event.headers.get("p-asserted-identity", ()):
        start = value.lower().find("sip:")
        user = value[start + 4 :].partition("@")[0].partition(";")[0] if start >= 0 else ""
        if user and normalise(user, trunk.country).startswith("+"):
            return user
    return ""
