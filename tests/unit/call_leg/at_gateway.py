"""A gateway without telephony: the call legs of a process, and callers that record what they are told."""

import asyncio
import json
from contextlib import asynccontextmanager

import nats.errors
import nats.js.errors

from libs.call_leg.audio import CallAudio
from libs.call_leg.gateway import CallLegs
from libs.call_leg.phase import Phase
from libs.call_leg.ports import NewCall
from libs.contracts import subjects, wire
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import CommandReply
from libs.contracts.config import Fallback
from libs.contracts.ids import new_call_id, new_process_id
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import CallState
from libs.contracts.termination import Reason, Termination
from libs.runtime.bus import Bus
from libs.runtime.outbox import EventOutbox
from libs.runtime.streams import provision


class Caller:
    """An entrance that records what it is told and plays the ticker."""

    def __init__(self, audio):
        self.audio = audio
        self.log = []
        self.objects = {}  # command kind -> sentence
        self.mode = "refer"
        self.dialled = asyncio.Event()
        self.answered, self.ended, self.spurt = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def objection(self, command):
        return self.objects.get(command.kind)

    def dial(self):
        self.log.append("dial")
        self.dialled.set()

    def transfer(self, command):
        self.log.append(("transfer", command.target))
        return self.mode

    def cancel_transfer(self):
        self.log.append("cancel_transfer")

    def send_dtmf(self, digits):
        self.log.append(("send_dtmf", digits))

    def hold(self, held):
        self.log.append(("hold", held))

    def answer(self):
        self.log.append("answer")
        self.answered.set()

    def reject(self, fallback, termination):
        self.log.append(("reject", fallback.status, termination.reason))
        self.ended.set()

    def hang_up(self, termination):
        self.log.append(("hang_up", termination.reason))
        self.ended.set()

    def send_now(self):
        self.spurt.set()

    def statistics(self):
        return MediaStatistics(up_published=self.audio.published)


class Gateway:
    def __init__(self, bus):
        self.bus = bus
        self.gw = new_process_id("gw")
        self.outbox = EventOutbox(bus)
        self.legs = CallLegs(self.gw, bus, self.outbox, capacity=10)
        self.tasks = []
        self.shells = []

    async def knows(self, *workers):
        await until(lambda: {worker.wk for worker in workers} == set(self.legs.roster._workers))

    async def is_sound(self):
        await until(lambda: self.legs.roster.is_sound(asyncio.get_running_loop().time()))

    async def entry(self, shell):
        """The call in KV `calls`, whenever it is there."""
        async with asyncio.timeout(5):
            while True:
                try:
                    store = await self.bus.js.key_value(subjects.KV_CALLS)
                    return json.loads((await store.get(shell.new.call)).value)
                except (nats.errors.Error, nats.js.errors.Error):
                    await asyncio.sleep(0.05)

    def call(self, *, direction="inbound", more=None, agent=None, **limits):
        call = new_call_id()
        agent = agent or AgentConfig(name="test", limits={"ready_timeout_s": 0.3} | limits)
        new = NewCall(call, "default", "sip", direction, "+491", "+492", agent, "r", Fallback(), CallState(),
                      **(more or {}))  # fmt: skip
        caller = Caller(CallAudio("default", self.gw, call, self.bus.send_frame))
        shell = self.legs.open(new, caller)
        self.shells.append(shell)
        self.tasks.append(asyncio.create_task(self.legs.serve(shell)))
        self.tasks.append(asyncio.create_task(self.uplink(caller, shell)))
        return shell, caller

    async def uplink(self, caller, shell):
        loop = asyncio.get_running_loop()
        while shell.leg.phase is not Phase.ENDED:
            caller.audio.received(bytes(320), loop.time())
            await asyncio.sleep(0.02)

    async def talking(self, **limits):
        shell, caller = self.call(**limits)
        async with asyncio.timeout(2):
            await caller.answered.wait()
        return shell, caller

    async def command(self, shell, command):
        data = await self.bus.request(subjects.control("default", shell.new.call, "leg"), command.to_json(), 1)
        return CommandReply.model_validate_json(data)

    async def events(self, shell):
        """What the stream holds of a call."""
        assert await self.outbox.flush(5)
        subscription = await self.bus.js.subscribe(subjects.events_of(shell.new.call), ordered_consumer=True)
        decoder, found = wire.event_decoder(), []
        info = await subscription.consumer_info()
        for _ in range(info.num_pending + info.delivered.consumer_seq):
            found.append(decoder.decode((await subscription.next_msg(timeout=2)).data))
        await subscription.unsubscribe()
        return found


@asynccontextmanager
async def gateway_at(server):
    bus = await Bus.connect(server.url, new_process_id("gw"))
    await provision(bus.js)
    gateway = Gateway(bus)
    await gateway.legs.start()
    running = [asyncio.create_task(gateway.outbox.run()), asyncio.create_task(gateway.legs.run())]
    try:
        yield gateway
    finally:
        for shell in gateway.shells:
            shell.end(Termination.of(Reason.DRAINING))
        await asyncio.wait_for(asyncio.gather(*gateway.tasks), 3)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await bus.close()


async def until(condition, timeout_s=3.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  the condition is the other side's state
            await asyncio.sleep(0.005)


def kinds(events):
    return [event.kind for event in events]
