"""The worker's shell: offers, releases, heartbeats, one media subscription, one ticker for all calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal

from nats.aio.msg import Msg
from pydantic import ValidationError

from libs.contracts import subjects
from libs.contracts.frame import FrameError, unpack
from libs.contracts.heartbeat import WorkerHeartbeat
from libs.contracts.offer import Offer, OfferReply, Release
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import BackendPlan, PlanBackend, UnsupportedAgentError
from services.ai_session.budget_shell import Budgets
from services.ai_session.claims import Claims, Refused
from services.ai_session.instruments import TICKER
from services.ai_session.journal import Outbox
from services.ai_session.rate_limit import RateLimits
from services.ai_session.session import Session, Surroundings
from services.ai_session.tools import ToolDirectory
from services.ai_session.voices.ahead import SpeechAhead

log = get_logger()

TICK_S = 0.1
CALL_LIST_EVERY = 10  # ticks
HAND_OVER_GRACE_S = 1.0  # beyond the drain time-out, for releases that are under way


class Worker:
    """Serves calls on `bus` until `run` is cancelled; `drain` hands them over first (R9)."""

    def __init__(
        self, bus: Bus, outbox: Outbox, plan: PlanBackend, capacity: int, ahead: SpeechAhead | None = None
    ) -> None:
        self.id = bus.process_id
        self._bus = bus
        self._plan = plan
        self._ahead = ahead
        self.claims = Claims(capacity)
        self.counters: Counter[str] = Counter()
        self.tools = ToolDirectory(bus)
        self.budgets = Budgets(bus)
        self.limits = RateLimits()
        self._around = Surroundings(bus, outbox, self.tools, self.counters, self.budgets, self.limits)
        self._sessions: dict[str, Session] = {}
        self._leaving: set[Session] = set()  # their calls are over, and they wait for the model's last words
        self._counting: set[Session] = set()  # those whose frames are not in `counters` yet
        self._group: asyncio.TaskGroup | None = None
        self._load = 0.0
        self._idle = asyncio.Event()

    async def run(self, listening: Callable[[], None] = lambda: None) -> None:
        """Take calls until cancelled; then every session ends. `listening` is called once offers can come."""
        await self._bus.media.subscribe(
            subjects.worker_uplink(self.id), cb=self._on_frame, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._bus.control.subscribe(subjects.offer(self.id), cb=self._on_offer)
        await self._bus.control.subscribe(subjects.release(self.id), cb=self._on_release)
        await self._bus.subscribed()
        listening()
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self.tools.run(), name="tools")
            self._group.create_task(self.budgets.run(), name="budgets")
            await self._tick_forever()

    async def drain(self, timeout_s: float) -> None:
        """No new offers; hand every call over at its next pause and wait for the releases."""
        self.claims.draining = True
        log.info("draining", calls=self.claims.count)
        for session in list(self._sessions.values()):
            session.drain(timeout_s)
        try:
            async with asyncio.timeout(timeout_s + HAND_OVER_GRACE_S):
                while self._sessions or self._leaving:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.error("calls were not taken over in time", calls=list(self._sessions))
        for session in (*self._sessions.values(), *self._leaving):
            session.end("drained")
        await asyncio.sleep(0)

    @property
    def sessions(self) -> int:
        """Sessions that run."""
        return len(self._sessions)

    def by_backend(self) -> Counter[str]:
        """Sessions that run, by their backend."""
        return Counter(session.offer.agent.backend for session in self._sessions.values())

    def counted(self) -> Counter[str]:
        """What was counted until now, in ended sessions and in those that run."""
        return sum((session.bridge.verdict() for session in self._counting), self.counters)

    def ring_frames(self) -> int:
        """Frames that wait for a model connection."""
        return sum(len(session.bridge.ring) for session in self._counting)

    # -- the bus ---------------------------------------------------------------------------------------

    async def _on_frame(self, msg: Msg) -> None:
        """An `up` frame. Never waits: the next call's frame stands behind it."""
        call = msg.subject.split(".")[5]
        session = self._sessions.get(call)
        if session is None:
            self.counters["up_unknown_call"] += 1
            return
        try:
            frame = unpack(msg.data)
        except FrameError as error:
            self.counters[f"up_{error.reason}"] += 1
            return
        session.uplink(frame, asyncio.get_running_loop().time())

    async def _on_offer(self, msg: Msg) -> None:
        try:
            offer = Offer.model_validate_json(msg.data)
        except ValidationError as error:
            self.counters["offer_malformed"] += 1
            log.warning("an offer was not understood", problem=str(error.errors(include_url=False)[0]))
            return
        session = None
        try:
            plan = self._plan(offer)
        except UnsupportedAgentError as error:
            log.warning(
                "an offer's agent cannot be served", call=offer.call, agent=offer.agent.name, problem=str(error)
            )
            reply = self._refusal(offer, str(error))
        else:
            reply, session = self._decide(offer, plan)
        if msg.reply:
            await msg.respond(reply.to_json())
        if session is not None:
            session.claim()

    def _decide(self, offer: Offer, plan: BackendPlan) -> tuple[OfferReply, Session | None]:
        spent = self.budgets.objection(offer.org, offer.org_usd_per_day)
        if spent and offer.resume is None:  # who is on the line already hears a goodbye from whoever takes it over
            return self._refusal(offer, spent), None
        decision = self.claims.offer(offer.call, offer.epoch)
        if isinstance(decision, Refused):
            return self._refusal(offer, decision.reason), None
        try:
            session = Session(offer, plan, self._around)
        except Exception as error:  # the top of a call: its place is given back, the worker goes on
            self.claims.ended(offer.call, offer.epoch)
            log.exception("a session could not be made", call=offer.call)
            return self._refusal(offer, f"the call cannot be served: {error}"), None
        finally:
            self._end(offer.call, "replaced")  # its older session here, whose epoch is fenced
        self._start(session)
        self._get_speech_ready(session)
        pacing: Literal["paced", "continuous"] = "continuous" if plan.capabilities.continuous_output else "paced"
        return OfferReply(accepted=True, wk=self.id, epoch=offer.epoch, pacing=pacing), session

    def _refusal(self, offer: Offer, reason: str) -> OfferReply:
        self.counters["refused"] += 1
        return OfferReply(accepted=False, wk=self.id, epoch=offer.epoch, reason=reason)

    def _start(self, session: Session) -> None:
        if self._group is None:
            raise RuntimeError("offers are taken only while the worker runs")
        self.counters["accepted"] += 1
        self._sessions[session.offer.call] = session
        self._counting.add(session)
        task = self._group.create_task(session.run(), name=f"call-{session.offer.call}")
        task.add_done_callback(lambda _: self._gone(session))

    def _get_speech_ready(self, session: Session) -> None:
        """The agent's fillers: played from what is ready, and rendered in the background where they are not."""
        agent = session.offer.agent
        ready = self._ahead.of(agent, session.offer.state.rate_hz) if self._ahead is not None else None
        if ready is None or self._ahead is None or self._group is None:
            return
        session.bridge.ready_speech = ready
        self._group.create_task(self._ahead.prepare(ready, agent), name=f"speech-ahead-{agent.name}")

    def _gone(self, session: Session) -> None:
        call = session.offer.call
        self.claims.ended(call, session.offer.epoch)
        if self._sessions.get(call) is session:
            del self._sessions[call]
        self._leaving.discard(session)
        self._counting.discard(session)
        self.counters.update(session.bridge.verdict() + Counter(sessions=1))
        if not self._sessions and not self._leaving:
            self._idle.set()

    async def _on_release(self, msg: Msg) -> None:
        try:
            release = Release.model_validate_json(msg.data)
        except ValidationError:
            self.counters["release_malformed"] += 1
            return
        if not self.claims.release(release.call, release.epoch):
            return
        if release.reason is None:  # another worker goes on
            self._end(release.call, "released")
            return
        session = self._sessions.pop(release.call, None)
        if session is not None:
            self._leaving.add(session)
            session.release(release.played)

    def _end(self, call: str, cause: str) -> None:
        session = self._sessions.pop(call, None)
        if session is not None:
            session.end(cause)

    # -- the ticker --------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        """Heartbeat and all sessions' timers: one wake-up serves every call."""
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while True:
            now = loop.time()
            late_s = now - due
            TICKER.observe(max(0.0, late_s))
            self._load += 0.1 * (min(1.0, late_s / TICK_S) - self._load)
            if number % CALL_LIST_EVERY == 0 or self.claims.draining:
                self._heartbeat(call_list=True)
                self._end_spent_days()
            else:
                self._heartbeat(call_list=False)
            for session in list(self._sessions.values()):
                session.tick(now, late_s)
            number += 1
            due = max(due + TICK_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _end_spent_days(self) -> None:
        """End the calls of organisations that have nothing left to spend today."""
        for session in list(self._sessions.values()):
            offer = session.offer
            if spent := self.budgets.objection(offer.org, offer.org_usd_per_day):
                session.day_is_spent(spent)

    def _heartbeat(self, *, call_list: bool) -> None:
        beat = WorkerHeartbeat(
            wk=self.id,
            calls=self.claims.count,
            capacity=self.claims.capacity,
            draining=self.claims.draining,
            load=round(self._load, 3),
            call_list=self.claims.calls if call_list else None,
        )
        self._bus.send_frame(subjects.worker_heartbeat(self.id), beat.to_json())
