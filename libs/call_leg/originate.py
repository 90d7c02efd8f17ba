"""Outbound calls asked for on the bus, the same for every entrance: read, judged, placed, answered.

`v1.<org>.originate.<entrance>` in a queue group: one gateway of the entrance places the call. The organisation is
the subject's, so that NATS permissions fence tenants. Every refused request leaves the record of an attempt.
A `request_id` is remembered by the gateway that served it: the same id again is answered with the same call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from libs.call_leg.admission_shell import Admission
from libs.call_leg.fences import NotAllowedError, OutboundFence
from libs.call_leg.gateway import CallLegs, RefusedAttempt
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.ids import new_call_id
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.config_copy import ConfigCopy
from libs.runtime.log import get_logger

log = get_logger()

REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Placement:
    """A call that may be placed: `number` is E.164, an extension or a SIP URI, and passed the trunk's fence.

    It has a place within its organisation's limits; whoever serves it gives that back when it ends.
    """

    call: str
    request: Originate
    org: str
    agent: AgentConfig
    trunk: str
    number: str


Place = Callable[[Placement], Awaitable[Termination | None]]
"""Open the leg of `Placement.call`, or tell at once why not (without a record: the caller leaves it)."""


class Originations:
    """One per gateway process. `fences` tells the trunks that can call now, the preferred one first."""

    def __init__(
        self,
        entrance: Literal["sip", "twilio", "browser"],
        legs: CallLegs,
        config: ConfigCopy,
        admission: Admission,
        fences: Callable[[], Mapping[str, OutboundFence]],
        place: Place,
    ) -> None:
        self._entrance = entrance
        self._legs = legs
        self._config = config
        self._admission = admission
        self._fences = fences
        self._place = place
        self._placed: dict[tuple[str, str], OriginateReply] = {}
        self._subscription: Subscription | None = None
        self.counters: Counter[str] = Counter()

    async def start(self, bus: Bus) -> None:
        """Take requests."""
        subject = subjects.originate(subjects.ANY, self._entrance)
        self._subscription = await bus.control.subscribe(subject, f"originate-{self._entrance}", cb=self._on_request)

    async def stop(self) -> None:
        """Take no more: the gateway drains, another one of the queue group serves what comes."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def _on_request(self, msg: Msg) -> None:
        org = msg.subject.split(".")[1]
        try:
            request = Originate.model_validate_json(msg.data)
        except ValidationError as error:
            self.counters["malformed"] += 1
            reply = OriginateReply(ok=False, error=f"the request was not understood: {_first(error)}")
        else:
            reply = await self.originate(org, request)
        if msg.reply:
            try:
                await msg.respond(reply.to_json())
            except (nats.errors.Error, OSError) as problem:  # the call goes on, its events tell of it
                log.warning("an answer was not sent", subject=msg.subject, problem=str(problem))

    async def originate(self, org: str, request: Originate) -> OriginateReply:
        """Place the call, or say why not; never raises but for cancellation."""
        key = (org, request.request_id)
        if request.request_id and key in self._placed:
            self.counters["repeated"] += 1
            return self._placed[key]
        call = new_call_id()
        try:
            why_not = await self._attempt(self._judge(call, org, request))
        except NotAllowedError as objection:
            why_not = objection.termination
        except Exception as error:  # the top of a request: a defect refuses this one, the next one is served
            log.exception("a call could not be placed")
            why_not = Termination.of(Reason.INTERNAL_ERROR, f"a defect in the gateway: {type(error).__name__}")
        if why_not is not None:
            self._admission.release(org, call)
            return self._refuse(call, org, request, why_not)
        self.counters["placed"] += 1
        reply = OriginateReply(ok=True, call=call, gw=self._legs.gw)
        if request.request_id:
            self._placed[key] = reply
            if len(self._placed) > REMEMBERED:
                del self._placed[next(iter(self._placed))]
        return reply

    async def _attempt(self, placement: Placement) -> Termination | None:
        """Within the organisation's limits, and if the gateway does not begin to drain while it asks for a place."""
        why_not = await self._admission.place(placement.org, placement.call) or self._legs.refusal()
        why_not = why_not or await self._place(placement)
        if why_not is not None and (fence := self._fences().get(placement.trunk)) is not None:
            fence.withdraw()  # nothing went out: whoever tries again until there is room has not used up the hour
        return why_not

    def _refuse(self, call: str, org: str, request: Originate, why: Termination) -> OriginateReply:
        self.counters["refused"] += 1
        log.info("call not placed", org=org, to=request.to, reason=why.reason, why=why.detail)
        attempt = RefusedAttempt(org, self._entrance, request.caller or "", request.to, None, request.agent, why,
                                 direction="outbound", call=call)  # fmt: skip
        self._legs.record_refused(attempt)
        return OriginateReply(ok=False, gw=self._legs.gw, error=why.detail or why.reason.value, reason=why.reason)

    def _judge(self, call: str, org: str, request: Originate) -> Placement:
        agent = self._agent(org, request)
        refusal = self._legs.refusal()
        if refusal is not None:
            raise NotAllowedError(refusal.reason, refusal.detail)
        trunk, number = self._way(org, request)
        return Placement(call, request, org, agent, trunk, number)

    def _agent(self, org: str, request: Originate) -> AgentConfig:
        """The agent as this call wants it; what cannot be had is told as `unknown_agent`."""
        if not self._config.loaded.is_set():
            raise NotAllowedError(Reason.NOT_READY, "the gateway has not read its configuration yet: try again")
        agent = self._config.agent(org, request.agent)
        if agent is None:
            sentence = f"organisation {org} has no agent '{request.agent}': publish it with `callbus apply`"
            raise NotAllowedError(Reason.UNKNOWN_AGENT, sentence)
        try:
            agent = request.changes.applied_to(agent)
        except ValidationError as error:
            raise NotAllowedError(Reason.UNKNOWN_AGENT, f"the changes do not fit: {_first(error)}") from None
        return agent

    def _way(self, org: str, request: Originate) -> tuple[str, str]:
        """The trunk that places the call, and what it dials. Its attempt is counted."""
        fences = {
            name: fence for name, fence in self._fences().items() if fence.rules.organisation in (None, org)
        }  # another organisation's is none: neither its name nor its attempts of this hour are ours
        if request.trunk is not None:
            if request.trunk not in fences:
                known = ", ".join(fences) or "none"
                sentence = f"no trunk '{request.trunk}' can place calls now; there are: {known}"
                raise NotAllowedError(Reason.TRUNK_FAILED, sentence)
            fences = {request.trunk: fences[request.trunk]}
        sentence = f"this gateway has no trunk that can place calls of organisation {org} now"
        objection = NotAllowedError(Reason.TRUNK_FAILED, sentence)
        now = asyncio.get_running_loop().time()
        for trunk, fence in fences.items():
            try:
                number = fence.number(request.to)
                fence.attempt(now)
            except NotAllowedError as error:
                objection = error
            else:
                return trunk, number
        raise objection


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
