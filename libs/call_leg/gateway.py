"""All calls of one gateway process: subscriptions, heartbeats, the roster's timer, drain."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from nats.aio.msg import Msg
from pydantic import ValidationError

from libs.call_leg import instruments
from libs.call_leg.context import LegContext
from libs.call_leg.journal import SOURCE
from libs.call_leg.kv_copy import CallsCopy
from libs.call_leg.phase import Phase
from libs.call_leg.ports import Entrance, NewCall
from libs.call_leg.roster import Gone, Roster
from libs.call_leg.shell import LegShell
from libs.contracts import events, subjects
from libs.contracts.heartbeat import CallEntry, GatewayHeartbeat, WorkerHeartbeat
from libs.contracts.ids import new_call_id
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.log import bound, get_logger
from libs.runtime.outbox import EventOutbox

log = get_logger()

HEARTBEAT_S = 0.1
LIST_EVERY = 10
END_S = 2.0
SENT_AT = "Sent-At"  # a header of our heartbeats, for ourselves: seconds on the event loop's clock


@dataclass(frozen=True, slots=True)
class RefusedAttempt:
    """A call that was refused before it had a leg: no route, no agent, no room, no common codec."""

    org: str
    entrance: Literal["sip", "twilio", "browser"]
    caller: str
    callee: str
    route: str | None
    agent: str | None
    termination: Termination
    direction: Literal["inbound", "outbound"] = "inbound"
    call: str = ""  # its id where it has one already


class CallLegs:
    """The gateway side of the call protocol for a process; an entrance runs each call with `serve`."""

    def __init__(self, gw: str, bus: Bus, outbox: EventOutbox, *, capacity: int) -> None:
        self.gw = gw
        self._bus = bus
        self._capacity = capacity
        self._calls: dict[str, LegShell] = {}
        self.roster = Roster()
        self.draining = False
        self._copy = CallsCopy(bus, self._entries)
        self.usd_per_day: Callable[[str], float | None] = lambda _: None  # set by who knows the organisations
        self._context = LegContext(gw, bus, outbox, self._copy, self.roster, self._budget)
        self._roster_timer: asyncio.TimerHandle | None = None
        self._beat_due_at: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.counters: Counter[str] = Counter()

    # -- the process ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe: one wildcard for the audio of all calls, heartbeats, advisories."""
        link = self._bus.control_link
        link.on_up.append(self._link_up)
        link.on_down.append(self.roster.link_down)
        if link.up_at is not None:
            self.roster.link_up(link.up_at)
        await self._bus.media.subscribe(subjects.gateway_downlink(self.gw), cb=self._on_downlink)
        await self._bus.control.subscribe(subjects.WORKER_HEARTBEATS, cb=self._on_heartbeat)
        await self._bus.control.subscribe(subjects.GONE, cb=self._on_gone)
        await self._bus.control.subscribe(subjects.gateway_heartbeat(self.gw), cb=self._on_echo)
        await self._bus.subscribed()
        instruments.CALLS.read_from(self._by_state)
        instruments.WORKERS.read_from(lambda: len(self.roster))
        instruments.ROSTER.read_from(lambda: self.roster.counters)
        instruments.REJECTED.read_from(lambda: self.counters)

    def _by_state(self) -> Counter[tuple[str, str, str]]:
        shells = self._calls.values()
        return Counter((shell.new.direction, shell.new.entrance, shell.leg.phase.value) for shell in shells)

    def media(self) -> Iterator[MediaStatistics]:
        """The audio of each call until now."""
        return (shell.entrance.statistics() for shell in self._calls.values())

    def _link_up(self) -> None:
        self.roster.link_up(asyncio.get_running_loop().time())
        self._arm_roster()

    async def run(self) -> None:
        """Heartbeats and the copy of the calls, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy.run())
            tasks.create_task(self._beat())

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        due, beats = loop.time(), 0
        subject = subjects.gateway_heartbeat(self.gw)
        while True:
            full = beats % LIST_EVERY == 0
            beat = GatewayHeartbeat(gw=self.gw, calls=len(self._calls), capacity=self._capacity,
                                    draining=self.draining, call_list=tuple(self._calls) if full else None)  # fmt: skip
            if self._bus.control.is_connected:
                headers = {SENT_AT: repr(loop.time())}  # its echo tells how long the bus takes
                await self._bus.control.publish(subject, beat.to_json(), headers=headers)
            beats += 1
            due = self._beat_due_at = due + HEARTBEAT_S
            await asyncio.sleep(due - loop.time())
            late_s = loop.time() - due
            self.roster.ticked(late_s, loop.time())
            if late_s > HEARTBEAT_S:
                due = loop.time()

    def _budget(self, org: str) -> float | None:
        return self.usd_per_day(org)

    # -- calls -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._calls)

    def refusal(self) -> Termination | None:
        """Why no further call can be taken now, or None."""
        if self.draining:
            return Termination.of(Reason.DRAINING, "the gateway is going down")
        if len(self._calls) >= self._capacity:
            return Termination.of(Reason.AT_CAPACITY, f"{self._capacity} calls are the limit of this gateway")
        return None

    def open(self, new: NewCall, entrance: Entrance) -> LegShell:
        """Register a call before its set-up starts, so that a drain sees it."""
        shell = LegShell(self._context, new, entrance)
        self._calls[new.call] = shell
        shell.announce()  # not by its task: a caller may be gone before that runs
        self._idle.clear()
        return shell

    def record_refused(self, attempt: RefusedAttempt) -> None:
        """Leave the record of a call that got no leg."""
        call, now, org = attempt.call or new_call_id(), datetime.now(UTC), attempt.org
        offered = events.CallOffered(
            event_id=events.event_id(call, SOURCE, 1), org=org, call=call, at=now, entrance=attempt.entrance,
            direction=attempt.direction, gw=self.gw, caller=attempt.caller, callee=attempt.callee,
            agent=attempt.agent, route=attempt.route,
        )  # fmt: skip
        ended = events.CallEnded(
            event_id=events.event_id(call, SOURCE, 2), org=org, call=call, at=now, termination=attempt.termination
        )
        instruments.refused(attempt.direction, attempt.entrance, attempt.termination)
        self._context.outbox.put(offered)
        self._context.outbox.put(ended, only_first=True)

    async def serve(self, shell: LegShell) -> None:
        """Run a call to its end."""
        call = shell.new.call
        try:
            with bound(call=call):
                await shell.run()
        except Exception:  # the top of a call task: one call's defect ends that call and no other
            log.exception("a call failed", call=call)
            shell.end(Termination.of(Reason.INTERNAL_ERROR, "a defect in the gateway; see its log"))
        finally:
            del self._calls[call]
            if not self._calls:
                self._idle.set()

    def _entries(self) -> Iterator[CallEntry]:
        return (shell.entry() for shell in self._calls.values() if shell.leg.phase is not Phase.ENDED)

    async def drain(self, timeout_s: float) -> None:
        """Take no new calls, let the present ones finish, end what is left after `timeout_s`."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            for shell in list(self._calls.values()):
                shell.end(Termination.of(Reason.DRAINING, "the gateway went down"))
            with suppress(TimeoutError):  # whoever does not end now is ended by the process
                async with asyncio.timeout(END_S):
                    await self._idle.wait()
        await self._copy.flush(END_S)

    # -- from the bus --------------------------------------------------------------------------------------------

    async def _on_downlink(self, msg: Msg) -> None:
        """Hot path: 50 frames a second and call. Never awaits."""
        parts = msg.subject.split(".")
        shell = self._calls.get(parts[5])
        if shell is None:
            self.counters["frame_for_unknown_call"] += 1
        elif shell.audio.heard_from_worker(parts[4], msg.data):
            shell.entrance.send_now()

    async def _on_heartbeat(self, msg: Msg) -> None:
        try:
            beat = WorkerHeartbeat.model_validate_json(msg.data)
        except ValidationError:
            self.counters["malformed_heartbeat"] += 1
            return
        now = asyncio.get_running_loop().time()
        self.roster.heartbeat(beat.wk, now, calls=beat.calls, capacity=beat.capacity, draining=beat.draining)
        if self._roster_timer is None:
            self._arm_roster()
        if beat.call_list is not None:
            listed = frozenset(beat.call_list)
            for call, shell in list(self._calls.items()):
                if shell.leg.wk == beat.wk and call not in listed:
                    shell.disowned(beat.wk)

    async def _on_echo(self, msg: Msg) -> None:
        now = asyncio.get_running_loop().time()
        self.roster.echoed(now)
        instruments.echoed((msg.headers or {}).get(SENT_AT), now)

    async def _on_gone(self, msg: Msg) -> None:
        try:
            name = str(json.loads(msg.data)["client"].get("name", ""))
        except (ValueError, KeyError, AttributeError, TypeError):
            self.counters["malformed_advisory"] += 1
            return
        self._take_from(self.roster.disconnected(name, asyncio.get_running_loop().time()))

    def _arm_roster(self) -> None:
        if self._roster_timer is not None:
            self._roster_timer.cancel()
            self._roster_timer = None
        deadline = self.roster.deadline()
        if deadline is not None:
            self._roster_timer = asyncio.get_running_loop().call_at(deadline, self._expire_roster)

    def _expire_roster(self) -> None:
        self._roster_timer = None
        now = asyncio.get_running_loop().time()
        if self._beat_due_at is not None:  # after a stall of ours this timer runs before the late heartbeat does
            self.roster.ticked(now - self._beat_due_at, now)
        self._take_from(self.roster.expire(now))
        self._arm_roster()

    def _take_from(self, gone: list[Gone]) -> None:
        for one in gone:
            log.warning("worker judged dead", wk=one.wk, cause=one.cause)
            for shell in list(self._calls.values()):
                shell.worker_gone(one)
