"""Both halves of a call joined over a real bus: legs without telephony, the real worker with a scripted model."""

import asyncio
from contextlib import asynccontextmanager

from libs.call_leg.phase import Phase
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import HandOver, Hold, TakeOver, Transfer
from libs.contracts.termination import Reason
from tests.support.fake_worker import FakeWorker
from tests.unit.ai_session.conftest import running_worker
from tests.unit.call_leg.at_gateway import until

SAY = [["text:Eins.", "tone:440:200"], ["text:Zwei.", "tone:440:200"], ["text:Drei.", "tone:440:200"]]
AGENT = AgentConfig(name="test", backend="scripted", greeting="Guten Tag", backend_options={"mode": "talk", "say": SAY})
SPOKEN = 3200  # bytes of one entry


class Ear:
    """The caller's: takes 20 ms out of the playout every 20 ms, as an entrance's ticker does."""

    def __init__(self, caller):
        self.heard = bytearray()
        self._caller = caller

    async def listen(self):
        due = asyncio.get_running_loop().time()
        while True:
            self.heard += self._caller.audio.tick() or b""
            due += 0.02
            await asyncio.sleep(due - asyncio.get_running_loop().time())


@asynccontextmanager
async def a_call(server, gateway, agent=AGENT, **how):
    async with running_worker(server.url) as worker:
        await until(lambda: worker.id in gateway.legs.roster._workers)
        shell, caller = gateway.call(agent=agent, **how)
        ear = Ear(caller)
        listening = asyncio.create_task(ear.listen())
        try:
            yield worker, shell, caller, ear
        finally:
            listening.cancel()
            shell.caller_gone(Reason.CALLER_HUNG_UP)
            await until(lambda: not worker.sessions)


async def sentences(gateway, shell):
    return [event.text for event in await gateway.events(shell) if event.kind == "agent.text"]


async def test_the_callee_is_greeted_when_they_pick_up_and_not_while_it_rings(server, gateway):
    async with a_call(server, gateway, direction="outbound") as (_, shell, caller, ear):
        await asyncio.wait_for(caller.dialled.wait(), 2)
        shell.ringing(180)
        await asyncio.sleep(0.3)
        assert not ear.heard
        shell.answered("PCMU", 8000)
        await until(lambda: len(ear.heard) >= SPOKEN)
        assert shell.leg.phase is Phase.TALKING
        assert await sentences(gateway, shell) == ["Eins."]


async def test_a_delayed_answer_is_greeted_when_it_is_given(server, gateway):
    async with a_call(server, gateway, more={"answer_delay_s": 0.4}) as (_, _, caller, ear):
        await until(lambda: caller.audio.wk is not None)
        await asyncio.sleep(0.1)
        assert not ear.heard
        await asyncio.wait_for(caller.answered.wait(), 2)
        await until(lambda: len(ear.heard) >= SPOKEN)


async def test_the_caller_hears_that_a_transfer_failed(server, gateway):
    async with a_call(server, gateway) as (_, shell, _, ear):
        await until(lambda: len(ear.heard) >= SPOKEN)
        assert (await gateway.command(shell, Transfer(target="+4930123"))).ok
        shell.transfer_ended(False, 486)
        await until(lambda: len(ear.heard) >= 2 * SPOKEN)
        assert await sentences(gateway, shell) == ["Eins.", "Zwei."]


async def test_a_bridged_call_ends_the_session_and_not_the_call(server, gateway):
    async with a_call(server, gateway) as (worker, shell, caller, ear):
        await until(lambda: len(ear.heard) >= SPOKEN)
        caller.mode = "bridge"
        await gateway.command(shell, Transfer(target="+4930123"))
        shell.transfer_ended(True, 200)
        await until(lambda: not worker.sessions)
        assert shell.leg.phase is Phase.BRIDGED


async def test_the_agent_is_quiet_on_hold(server, gateway):
    options = {"mode": "talk", "say": [["text:Eins zwei drei.", "tone:440:1000"]]}
    agent = AGENT.model_copy(update={"backend_options": options})
    async with a_call(server, gateway, agent) as (worker, shell, caller, ear):
        await until(lambda: len(ear.heard) >= 640)
        await gateway.command(shell, Hold(held=True))
        await until(lambda: worker._sessions[shell.new.call].bridge.playout.paused)
        await until(lambda: caller.audio.playout.depth == 0)
        played = caller.audio.playout.played
        assert played < 8000
        await asyncio.sleep(0.1)
        assert caller.audio.playout.played == played
        await gateway.command(shell, Hold(held=False))
        await until(lambda: caller.audio.playout.played == 8000)  # the greeting, to its last sample


async def test_an_agent_is_back_after_a_person(server, gateway):
    async with (
        a_call(server, gateway) as (worker, shell, _, ear),
        FakeWorker(server.url, capacity=0) as person,
    ):
        await until(lambda: len(ear.heard) >= SPOKEN)
        await until(lambda: person.wk in gateway.legs.roster._workers)
        reply = await gateway.command(shell, TakeOver(by=person.wk))
        await until(lambda: not worker.sessions)
        before = len(ear.heard)
        assert await gateway.outbox.flush(2)
        assert (await gateway.command(shell, HandOver(epoch=reply.details["epoch"]))).ok
        await until(lambda: shell.leg.wk == worker.id and shell.leg.phase is Phase.TALKING)
        await until(lambda: len(ear.heard) > before)
        assert shell.leg.epoch == 3
