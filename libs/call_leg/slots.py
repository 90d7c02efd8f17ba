"""KV `slots`: places within the limits of organisations, exact over several gateways. The shell of `slot_document`.

Per organisation one task writes, so that a burst of calls is one compare-and-set and gateways race only with each
other. A refusal costs one read, and writes nothing.

When the bus is away, or too slow for `TAKE_S`, a call is not refused for that: its gateway counts its own calls
alone (fail open; counter `counted_locally`, a warning in the log). So n gateways may let in n times the limit until
the bus is back; then everybody writes what it holds, and no further call is let in until the sum is below the limit.
The same holds for a second after the bucket (memory!) was lost: each gateway writes its section again at once when its
link came back, within `RECONCILE_S` otherwise.

Attempts are stamped with the wall clock; gateways on several machines need NTP, as SIP and TLS do anyway.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from libs.call_leg import instruments
from libs.call_leg.admission import Limits
from libs.call_leg.slot_document import Ask, OrgPlaces, Presence, SlotDocument, Verdict
from libs.contracts import subjects
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.streams import bucket
from libs.runtime.tasks import stop_if_cancelled

log = get_logger()

TAKE_S = 0.25
WRITE_S = 1.0
RETRY_S = 0.03
JITTER_S = 0.005
RECONCILE_S = 1.0
CHECK_S = 0.25


@dataclass(slots=True)
class _Waiting:
    """A call that waits for its place; cancelled when it waits no more."""

    ask: Ask
    told: asyncio.Future[Verdict]


@dataclass(slots=True)
class _Org:
    """An organisation while this gateway runs."""

    places: OrgPlaces
    waiting: list[_Waiting] = field(default_factory=list)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """`run()` is one task of the gateway's TaskGroup; `take` and `free` are the calls'.

    `is_sound` tells whether the silence of a peer is evidence (`Roster.is_sound`).
    """

    def __init__(self, bus: Bus, gw: str, is_sound: Callable[[float], bool]) -> None:
        self._bus = bus
        self._gw = gw
        self._is_sound = is_sound
        self._orgs: dict[str, _Org] = {}
        self._presence = Presence()
        self._store: KeyValue | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._loop = asyncio.get_running_loop()
        self.counters: Counter[str] = Counter()

    async def start(self) -> None:
        """Subscribe to the heartbeats of all gateways."""
        await self._bus.control.subscribe(subjects.GATEWAY_HEARTBEATS, cb=self._on_heartbeat)
        self._bus.control_link.on_up.append(self._link_up)
        instruments.SLOTS.read_from(lambda: self.counters)
        instruments.SLOTS_HELD.read_from(self.held)

    def held(self) -> int:
        """Places that calls of this gateway hold, of all organisations."""
        return sum(len(org.places.held) for org in self._orgs.values())

    async def run(self) -> None:
        """Write, and write again what was lost, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for name, org in self._orgs.items():
                    self._tasks.create_task(self._serve(name, org))
                beats = 0
                while True:
                    stop_if_cancelled()
                    now = self._loop.time()
                    self._presence.checked(self._is_sound(now), now)
                    if beats % round(RECONCILE_S / CHECK_S) == 0:
                        self._write_all()
                    beats += 1
                    await asyncio.sleep(CHECK_S)
        finally:
            self._tasks = None

    # -- the calls' side ----------------------------------------------------------------------------------------

    async def take(self, org: str, call: str, limits: Limits) -> Verdict:
        """A place for a call, within `TAKE_S` at the latest. Asking twice for the same call is one place."""
        place = self._org(org)
        verdict = Verdict.TAKEN
        if self._bus.control_link.up_at is None or self._tasks is None:
            verdict = self._locally(org, place, Ask(call, limits))
        else:
            waiting = _Waiting(Ask(call, limits), self._loop.create_future())
            place.waiting.append(waiting)
            place.wanted.set()
            try:
                async with asyncio.timeout(TAKE_S):
                    verdict = await waiting.told
            except TimeoutError:
                verdict = self._locally(org, place, waiting.ask)
            except asyncio.CancelledError:  # the caller hung up in the very moment in which a place was given
                self.free(org, call)
                raise
        self.counters[verdict.value] += 1
        return verdict

    def free(self, org: str, call: str) -> None:
        """A call ended: its place is given back in the background. Unknown ones are no matter."""
        place = self._orgs.get(org)
        if place is not None and place.places.free(call):
            place.wanted.set()

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, at most so long: a gateway that ends leaves nothing behind."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for org in self._orgs.values():
                    while org.wanted.is_set():
                        org.written.clear()
                        await org.written.wait()

    def _org(self, name: str) -> _Org:
        org = self._orgs.get(name)
        if org is None:
            org = self._orgs[name] = _Org(OrgPlaces(self._gw))
            if self._tasks is not None:
                self._tasks.create_task(self._serve(name, org))
        return org

    def _locally(self, name: str, org: _Org, ask: Ask) -> Verdict:
        """The bus cannot be asked: only our own calls count."""
        now_ms = _now_ms()
        _, (verdict,) = org.places.settle(SlotDocument(), [ask], (), now_ms)
        if verdict is Verdict.TAKEN:
            org.places.keep(ask.call, now_ms)
            org.wanted.set()
        self.counters["counted_locally"] += 1
        log.warning("a call was counted by this gateway alone: the bus gave no place in time", org=name, call=ask.call)
        return verdict

    # -- the bus's side -----------------------------------------------------------------------------------------

    async def _on_heartbeat(self, msg: Msg) -> None:
        self._presence.heard(msg.subject.rpartition(".")[2], self._loop.time())

    def _link_up(self) -> None:
        self._store = None
        self._write_all()

    def _write_all(self) -> None:
        for org in self._orgs.values():
            if org.places.held:
                org.wanted.set()

    async def _serve(self, name: str, org: _Org) -> None:
        """One organisation's writer."""
        while True:
            stop_if_cancelled()
            await org.wanted.wait()
            if self._bus.control_link.up_at is None:
                await asyncio.sleep(RETRY_S)
                continue
            org.waiting = [each for each in org.waiting if not each.told.done()]
            asked = list(org.waiting)
            try:
                async with asyncio.timeout(WRITE_S):
                    is_settled = await self._write(name, org, asked)
            except (nats.errors.Error, JetStreamError, OSError, TimeoutError) as error:
                log.debug("slots not written yet", org=name, problem=str(error) or type(error).__name__)
                self.counters["write_failed"] += 1
                self._store = None
                is_settled = False
                await asyncio.sleep(RETRY_S)
            if is_settled and not org.waiting:
                org.wanted.clear()
                org.written.set()

    async def _write(self, name: str, org: _Org, asked: list[_Waiting]) -> bool:
        """Decide about all that wait with one compare-and-set; whether nothing changed meanwhile."""
        if self._store is None:
            self._store = await bucket(self._bus.js, subjects.KV_SLOTS)
        store = self._store
        while True:
            found, revision = await self._read(store, name)
            now, now_ms = self._loop.time(), _now_ms()
            self._presence.checked(self._is_sound(now), now)
            gone = {gw for gw in found.sections if gw != self._gw and self._presence.is_gone(gw, now)}
            document, verdicts = org.places.settle(found, [each.ask for each in asked], gone, now_ms)
            if document == found:
                break
            try:
                await store.update(name, document.to_json(), last=revision)
                break
            except KeyWrongLastSequenceError:
                self.counters["conflict"] += 1
                await asyncio.sleep(random.uniform(0, JITTER_S))
        self._tell(org, asked, verdicts, now_ms)
        return org.places.is_in(document)

    async def _read(self, store: KeyValue, name: str) -> tuple[SlotDocument, int]:
        try:
            entry = await store.get(name)
        except KeyNotFoundError as error:  # a deleted key has a revision to replace
            return SlotDocument(), (error.entry.revision or 0) if error.entry else 0
        try:
            return SlotDocument.model_validate_json(entry.value or b""), entry.revision or 0
        except ValidationError:
            self.counters["malformed"] += 1
            log.error("a slots document cannot be read; it is written anew", org=name)
            return SlotDocument(), entry.revision or 0

    def _tell(self, org: _Org, asked: list[_Waiting], verdicts: list[Verdict], now_ms: int) -> None:
        for each, verdict in zip(asked, verdicts, strict=True):
            org.waiting.remove(each)
            if each.told.done():  # it waited too long or hung up: then it is in the document and not with us
                continue
            if verdict is Verdict.TAKEN:
                org.places.keep(each.ask.call, now_ms)
            each.told.set_result(verdict)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
