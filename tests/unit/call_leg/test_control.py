"""Call control over a real NATS server: outbound, manual answer, transfer, take-over, as the bus sees them."""

import asyncio
import json

import nats.js.errors
import pytest

from libs.call_leg.phase import Phase
from libs.contracts import subjects
from libs.contracts.commands import (
    Accept,
    Decline,
    Describe,
    HandOver,
    HangUp,
    Hold,
    Say,
    SendDtmf,
    TakeOver,
    Transfer,
)
from libs.contracts.frame import AudioFrame, Codec, pack
from libs.contracts.termination import Reason, Termination
from tests.support.fake_worker import FakeWorker
from tests.unit.call_leg.at_gateway import kinds, until


async def ringing(gateway):
    shell, caller = gateway.call(direction="outbound")
    async with asyncio.timeout(2):
        await caller.dialled.wait()
    return shell, caller


async def told(worker):
    return json.loads(await asyncio.wait_for(worker.told.get(), 1))


async def test_an_outbound_call_from_the_claim_over_ringing_to_the_callees_hang_up(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await ringing(gateway)
        offer = worker.offers.get_nowait()
        assert (offer.direction, offer.state.answered) == ("outbound", False)
        shell.ringing(180)
        shell.ringing(183, early_media=True)
        await until(lambda: len(worker.frames) >= 3)  # R2: before the answer, too
        shell.answered("PCMA", 8000)
        state = (await told(worker))["state"]
        assert (state["answered"], state["codec"]) == (True, "PCMA")
        shell.caller_gone(Reason.CALLEE_HUNG_UP)
        await until(lambda: not len(gateway.legs))
        events = await gateway.events(shell)
        assert kinds(events) == [
            "call.offered", "call.claimed", "call.ringing", "call.ringing", "call.answered", "call.ended"
        ]  # fmt: skip
        assert (events[3].status, events[3].early_media) == (183, True)
        assert events[4].codec == "PCMA"
        assert events[5].termination == Termination.of(Reason.CALLEE_HUNG_UP)
        assert caller.log == ["dial"]


async def test_a_busy_callee_is_the_calls_one_end(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await ringing(gateway)
        shell.refused(Termination.of(Reason.CALLEE_BUSY, "486 Busy Here"))
        shell.answered("PCMA", 8000)
        shell.ringing(180)
        release = await asyncio.wait_for(worker.releases.get(), 1)
        assert release.reason is Reason.CALLEE_BUSY
        assert kinds(await gateway.events(shell)) == ["call.offered", "call.claimed", "call.ended"]
        assert caller.log == ["dial"]


async def test_a_worker_that_dies_while_it_rings_costs_no_second_dial(server, gateway):
    async with FakeWorker(server.url) as one:
        await gateway.knows(one)
        shell, caller = await ringing(gateway)
        async with FakeWorker(server.url) as two:
            await gateway.knows(one, two)
            await gateway.is_sound()
            one.die()
            offer = await asyncio.wait_for(two.offers.get(), 2)
            assert (offer.epoch, offer.resume, offer.state.answered) == (2, None, False)
            await until(lambda: shell.leg.phase is Phase.RINGING)
            shell.answered("PCMU", 8000)
            assert (await told(two))["state"]["answered"] is True
            assert caller.log == ["dial"]


async def test_a_call_waits_for_a_persons_word(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = gateway.call(more={"needs_person": True})
        await until(lambda: shell.leg.phase is Phase.WAITING)
        await until(lambda: not gateway.legs._copy._pending)
        assert (await gateway.entry(shell))["phase"] == "waiting"
        assert worker.offers.empty()
        assert (await gateway.command(shell, Accept())).ok
        await asyncio.wait_for(caller.answered.wait(), 2)
        waiting = (await gateway.events(shell))[1]
        assert waiting.kind == "call.waiting"
        assert 55 < (waiting.until - waiting.at).total_seconds() < 65


async def test_a_declined_call_gets_the_routes_fallback(server, gateway):
    shell, caller = gateway.call(more={"needs_person": True})
    await until(lambda: shell.leg.phase is Phase.WAITING)
    assert (await gateway.command(shell, Decline(detail="closed"))).ok
    assert caller.log == [("reject", 503, Reason.OPERATOR_DECLINED)]
    assert kinds(await gateway.events(shell)) == ["call.offered", "call.waiting", "call.ended"]


async def test_nobody_hears_the_agent_before_a_delayed_answer(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = gateway.call(more={"answer_delay_s": 0.3})
        offer = await asyncio.wait_for(worker.offers.get(), 1)
        assert not offer.state.answered
        await until(lambda: shell.leg.phase is Phase.RINGING)
        assert not caller.answered.is_set()
        await asyncio.wait_for(caller.answered.wait(), 1)
        assert (await told(worker))["state"]["answered"] is True


async def test_a_transfer_is_told_to_agent_and_stream_and_its_failure_returns(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        assert (await gateway.command(shell, Transfer(target="+4930123"))).ok
        assert (await told(worker))["state"]["transfer"] == "pending"
        shell.transfer_progress(180)
        shell.transfer_ended(False, 486, "Busy Here")
        shell.transfer_ended(True, 200)
        assert (await told(worker))["state"]["transfer"] == "failed"
        assert caller.log == ["answer", ("transfer", "+4930123")]
        transfers = [event for event in await gateway.events(shell) if event.kind == "call.transfer"]
        assert [(event.state, event.status) for event in transfers] == [
            ("requested", None), ("ringing", 180), ("failed", 486)
        ]  # fmt: skip
        assert shell.leg.phase is Phase.TALKING


async def test_an_entrance_may_tell_of_a_transfers_end_from_within(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()

        def transfer(command):
            shell.transfer_ended(False, 405, "the other side allows no REFER")
            return "refer"

        caller.transfer = transfer
        assert (await gateway.command(shell, Transfer(target="+4930123"))).ok
        await until(lambda: shell.leg.transfer.state == "failed")
        states = [event.state for event in await gateway.events(shell) if event.kind == "call.transfer"]
        assert states == ["requested", "failed"]


async def test_a_worker_that_dies_while_a_transfer_runs_waits_for_its_outcome(server, gateway):
    async with FakeWorker(server.url) as one, FakeWorker(server.url) as two:
        await gateway.knows(one, two)
        await gateway.is_sound()
        shell, caller = await gateway.talking()
        mine, other = (one, two) if shell.leg.wk == one.wk else (two, one)
        caller.mode = "bridge"
        await gateway.command(shell, Transfer(target="+4930123"))
        mine.die()
        await until(lambda: shell.leg.wk is None)
        assert caller.audio.tick() is not None  # filler
        assert other.offers.empty()
        shell.transfer_ended(False, 480)
        offer = await asyncio.wait_for(other.offers.get(), 1)
        assert (offer.resume.cause, offer.state.transfer) == ("failover", "failed")


async def test_a_bridged_call_releases_its_worker_and_lasts(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        caller.mode = "bridge"
        await gateway.command(shell, Transfer(target="+4930123"))
        shell.transfer_ended(True, 200)
        release = await asyncio.wait_for(worker.releases.get(), 1)
        assert (release.epoch, release.reason) == (1, Reason.TRANSFERRED)
        worker.die()
        await asyncio.sleep(0.1)
        assert (shell.leg.phase, len(gateway.legs)) == (Phase.BRIDGED, 1)
        shell.end(Termination.of(Reason.TRANSFERRED, "the target hung up"))
        assert caller.log[-1] == ("hang_up", Reason.TRANSFERRED)
        events = await gateway.events(shell)
        assert events[-1].termination.reason is Reason.TRANSFERRED
        assert "call.worker_lost" not in kinds(events)


async def test_what_the_entrance_cannot_do_changes_nothing(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        for command in (Transfer(target="+4930123"), SendDtmf(digits="1"), Hold(held=True)):
            caller.objects[command.kind] = f"no {command.kind} here"
            reply = await gateway.command(shell, command)
            assert (reply.ok, reply.error) == (False, f"no {command.kind} here")
        assert caller.log == ["answer"]
        assert (shell.leg.transfer.state, shell.leg.held_by_us) == ("none", False)


async def test_hold_keys_and_words_by_command(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        await gateway.command(shell, SendDtmf(digits="12#"))
        await gateway.command(shell, Say(text="Einen Moment"))
        assert (await told(worker))["text"] == "Einen Moment"
        await gateway.command(shell, Hold(held=True))
        assert (await told(worker))["state"]["held"] is True
        assert caller.audio.tick() is not None  # the waiting tone
        assert not (await gateway.command(shell, Say(text="x"))).ok
        await gateway.command(shell, Hold(held=False))
        assert (await told(worker))["state"]["held"] is False
        assert caller.audio.tick() is None
        shell.set_held(True)
        assert (await told(worker))["state"]["held"] is True
        assert caller.log[1:] == [("send_dtmf", "12#"), ("hold", True), ("hold", False)]
        found = [event for event in await gateway.events(shell) if event.kind in ("call.held", "call.dtmf_sent")]
        assert [getattr(event, "by", "12#") for event in found] == ["12#", "command", "command", "remote"]


async def test_a_call_describes_itself(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, _ = await gateway.talking()
        details = (await gateway.command(shell, Describe())).details
        assert (details["phase"], details["epoch"], details["owner"]) == ("talking", 1, worker.wk)
        assert (details["codec"], details["rate_hz"]) == ("PCMU", 8000)
        assert 0 <= details["answered_ago_s"] <= details["started_ago_s"] < 5
        assert details["media"]["up_published"] >= 0


async def test_a_person_takes_over_is_heard_and_gives_back(server, gateway):
    async with FakeWorker(server.url) as worker, FakeWorker(server.url, capacity=0) as person:
        await gateway.knows(worker, person)
        shell, caller = await gateway.talking()
        first = worker.offers.get_nowait()
        worker.says(first, 0)
        worker.says(first, 1)
        await until(lambda: caller.audio.playout.depth == 2)
        reply = await gateway.command(shell, TakeOver(by=person.wk))
        assert reply.details == {"epoch": 2, "gw": gateway.gw, "codec": "PCMU", "rate_hz": 8000}
        assert caller.audio.tick() is None  # the agent's words were dropped
        release = await asyncio.wait_for(worker.releases.get(), 1)
        assert (release.epoch, release.reason) == (1, None)
        await until(lambda: len(person.frames) >= 3)
        assert person.frames[0].epoch == 2
        worker.says(first, 2)  # fenced
        frame = AudioFrame(Codec.PCM16_8000, 0, 2, 0, 0, b"\x05\x10" * 160)
        person.bus.send_frame(subjects.audio("default", gateway.gw, person.wk, shell.new.call, "dn"), pack(frame))
        await until(lambda: caller.audio.playout.depth == 1)
        assert caller.audio.tick() == frame.payload
        assert (await gateway.command(shell, HandOver(epoch=2))).ok
        offer = await asyncio.wait_for(worker.offers.get(), 1)
        assert (offer.epoch, offer.resume.cause, offer.resume.previous_wk) == (3, "drain", person.wk)
        assert offer.resume.played == {1: 0, 2: 160}
        taken = [event for event in await gateway.events(shell) if event.kind == "call.taken_over"]
        assert [(event.by, event.epoch, event.previous_wk) for event in taken] == [(person.wk, 2, worker.wk)]


async def test_a_person_who_vanishes_is_followed_by_an_agent(server, gateway):
    async with FakeWorker(server.url) as worker, FakeWorker(server.url, capacity=0) as person:
        await gateway.knows(worker, person)
        await gateway.is_sound()
        shell, _ = await gateway.talking()
        worker.offers.get_nowait()
        await gateway.command(shell, TakeOver(by=person.wk))
        person.die()
        offer = await asyncio.wait_for(worker.offers.get(), 2)
        assert (offer.epoch, offer.resume.cause) == (3, "failover")


async def test_nobody_unknown_takes_over(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, _ = await gateway.talking()
        assert "heartbeats" in (await gateway.command(shell, TakeOver(by="console-1"))).error
        assert shell.leg.wk == worker.wk


async def test_a_drain_waits_for_outbound_and_bridged_calls_then_ends_them(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        bridged, one = await gateway.talking()
        one.mode = "bridge"
        await gateway.command(bridged, Transfer(target="+4930123"))
        bridged.transfer_ended(True, 200)
        _, other = await ringing(gateway)
        await gateway.legs.drain(0.1)
        assert one.log[-1] == other.log[-1] == ("hang_up", Reason.DRAINING)
        assert len(gateway.legs) == 0


async def test_hanging_up_while_a_transfer_runs_cancels_it(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        await gateway.command(shell, Transfer(target="+4930123"))
        assert (await gateway.command(shell, HangUp())).ok
        assert caller.log[-2:] == ["cancel_transfer", ("hang_up", Reason.OPERATOR_HUNG_UP)]
        assert kinds(await gateway.events(shell))[-2:] == ["call.transfer", "call.ended"]


async def test_a_number_that_is_refused_at_once_leaves_no_ghost_of_its_call(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = gateway.call(direction="outbound")
        caller.dial = lambda: shell.refused(Termination.of(Reason.TRUNK_FAILED, "no server is known"))
        await until(lambda: not len(gateway.legs))
        assert kinds(await gateway.events(shell)) == ["call.offered", "call.claimed", "call.ended"]
        await gateway.legs._copy.flush(3)
        store = await gateway.bus.js.key_value(subjects.KV_CALLS)
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            await store.get(shell.new.call)


async def test_what_an_entrance_tells_while_it_answers_comes_after_the_answer(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = gateway.call()
        caller.answer = lambda: shell.end(Termination.of(Reason.NO_COMMON_CODEC))
        await until(lambda: not len(gateway.legs))
        assert kinds(await gateway.events(shell)) == ["call.offered", "call.claimed", "call.answered", "call.ended"]


async def test_a_call_whose_counters_are_lost_ends_all_the_same(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        caller.statistics = lambda: 1 / 0
        shell.caller_gone(Reason.CALLER_HUNG_UP)
        await until(lambda: not len(gateway.legs))


async def test_a_held_caller_hears_the_tone_and_not_the_person_who_took_over(server, gateway):
    async with FakeWorker(server.url) as worker, FakeWorker(server.url, capacity=0) as person:
        await gateway.knows(worker, person)
        shell, caller = await gateway.talking()
        assert (await gateway.command(shell, Hold(held=True))).ok
        reply = await gateway.command(shell, TakeOver(by=person.wk))
        loud = AudioFrame(Codec.PCM16_8000, 0, reply.details["epoch"], 0, 0, b"\x40\x40" * 160)
        caller.audio.heard_from_worker(person.wk, pack(loud))
        caller.audio.heard_from_worker(person.wk, pack(loud._replace(seq=1, timestamp=160)))
        assert b"\x40\x40" not in caller.audio.tick()
        assert (await gateway.command(shell, Hold(held=False))).ok
        caller.audio.heard_from_worker(person.wk, pack(loud._replace(seq=2, timestamp=320)))
        assert caller.audio.tick() == b"\x40\x40" * 160
