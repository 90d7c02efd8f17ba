"""The call protocol over a real NATS server: workers that refuse, die, freeze; a server that restarts."""

import asyncio
import json
import time

import nats.errors
import nats.js.errors
import pytest

from libs.call_leg.phase import Phase
from libs.contracts import subjects
from libs.contracts.commands import CommandReply, HandOver, HangUp, Mute
from libs.contracts.events import CallEnded, event_id
from libs.contracts.termination import Reason, Termination
from tests.support.fake_worker import FakeWorker, accept, accept_unready, never, refuse
from tests.unit.call_leg.at_gateway import kinds, until


async def test_a_call_from_claim_to_its_one_end(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()
        offer = worker.offers.get_nowait()
        assert (offer.call, offer.gw, offer.epoch, offer.resume) == (shell.new.call, gateway.gw, 1, None)
        await until(lambda: len(worker.frames) >= 3)
        assert [frame.seq for frame in worker.frames[:3]] == [0, 1, 2]
        worker.says(offer, 0)
        await asyncio.wait_for(caller.spurt.wait(), 1)
        assert caller.audio.tick() == b"\x01\x10" * 160
        await until(lambda: worker.frames[-1].played == 160)
        assert (await gateway.command(shell, Mute(muted=True))).ok
        assert json.loads(await asyncio.wait_for(worker.told.get(), 1))["state"]["muted"] is True
        assert (await worker.command(offer, HangUp(epoch=1, reason=Reason.AGENT_HUNG_UP))).ok
        await asyncio.wait_for(caller.ended.wait(), 1)
        shell.dtmf("1")  # too late
        assert caller.log == ["answer", ("hang_up", Reason.AGENT_HUNG_UP)]
        assert (await asyncio.wait_for(worker.releases.get(), 1)).reason is Reason.AGENT_HUNG_UP
        events = await gateway.events(shell)
        assert kinds(events) == ["call.offered", "call.claimed", "call.answered", "call.muted", "call.ended"]
        assert events[-1].termination.reason is Reason.AGENT_HUNG_UP
        assert len({event.event_id for event in events}) == 5


async def test_offers_tell_the_organisations_budget_as_it_is_published_at_the_moment(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        gateway.legs.usd_per_day = {"default": 2.5}.get
        await gateway.talking()
        assert (await worker.offers.get()).org_usd_per_day == 2.5
        gateway.legs.usd_per_day = {}.get
        await gateway.talking()
        assert (await worker.offers.get()).org_usd_per_day is None


async def test_a_refusing_a_silent_and_a_late_worker_are_passed_over(server, gateway):
    async with (
        FakeWorker(server.url, on_offer=refuse, capacity=40) as refusing,
        FakeWorker(server.url, late_s=0.15, capacity=30) as late,
        FakeWorker(server.url) as good,
    ):
        await gateway.knows(refusing, late, good)
        shell, caller = await gateway.talking()
        assert (shell.leg.wk, shell.leg.epoch) == (good.wk, 3)
        release = await asyncio.wait_for(late.releases.get(), 1)
        assert release.epoch == 2
        reply = await asyncio.wait_for(late.replies.get(), 1)  # its acceptance, and its ready, come too late
        assert reply.ok is False
        assert refusing.releases.empty()
        assert caller.log == ["answer"]


async def test_without_a_worker_that_gets_ready_the_caller_is_rejected(server, gateway):
    async with (
        FakeWorker(server.url, on_offer=accept_unready, capacity=40) as unready,
        FakeWorker(server.url, on_offer=never) as silent,
    ):
        await gateway.knows(unready, silent)
        await gateway.is_sound()
        shell, caller = gateway.call()
        await asyncio.wait_for(caller.ended.wait(), 2)
        assert caller.log == [("reject", 503, Reason.NOT_READY)]
        assert kinds(await gateway.events(shell)) == ["call.offered", "call.claimed", "call.worker_lost", "call.ended"]


async def test_a_killed_worker_is_replaced_within_tens_of_milliseconds(server, gateway):
    async with FakeWorker(server.url, capacity=40) as first, FakeWorker(server.url) as second:
        await gateway.knows(first, second)
        shell, caller = await gateway.talking()
        first.says(first.offers.get_nowait(), 0)
        await asyncio.wait_for(caller.spurt.wait(), 1)
        caller.audio.tick()
        killed_at = time.monotonic()
        first.die()
        offer = await asyncio.wait_for(second.offers.get(), 2)
        assert time.monotonic() - killed_at < 0.15  # 350 ms would be its heartbeats' silence
        assert (offer.epoch, offer.resume.cause, offer.resume.previous_wk) == (2, "failover", first.wk)
        assert offer.resume.played == {1: 160}
        await until(lambda: second.frames)
        assert second.frames[0].epoch == 2
        assert caller.log == ["answer"]
        lost = next(event for event in await gateway.events(shell) if event.kind == "call.worker_lost")
        assert (lost.wk, lost.cause, lost.played) == (first.wk, "gone", 160)


async def test_a_frozen_worker_is_replaced_after_its_silence_and_fenced_when_it_thaws(server, gateway):
    async with FakeWorker(server.url, capacity=40) as first, FakeWorker(server.url) as second:
        await gateway.knows(first, second)
        await gateway.is_sound()
        shell, caller = await gateway.talking()
        offer = first.offers.get_nowait()
        frozen_at = time.monotonic()
        first.frozen = True
        await asyncio.wait_for(second.offers.get(), 2)
        assert 0.2 < time.monotonic() - frozen_at < 0.6
        first.frozen = False
        foreign = caller.audio.foreign
        first.says(offer, 0)
        assert (await first.command(offer, HangUp(epoch=1, reason=Reason.AGENT_HUNG_UP))).ok is False
        await until(lambda: caller.audio.foreign > foreign)
        assert caller.audio.playout.pop() is None
        assert caller.log == ["answer"]
        assert shell.leg.wk == second.wk


async def test_a_restart_of_the_server_fails_nobody_over_and_the_copy_is_written_again(server, gateway):
    async with FakeWorker(server.url, capacity=40) as first, FakeWorker(server.url) as second:
        await gateway.knows(first, second)
        shell, caller = await gateway.talking()
        await gateway.entry(shell)
        up = asyncio.Event()
        gateway.bus.control_link.on_up.append(up.set)
        server.kill()
        await asyncio.sleep(0.5)
        await server.start()
        await asyncio.wait_for(up.wait(), 5)
        sent = len(first.frames)
        await asyncio.sleep(0.9)  # beyond the settling time, in which nobody is judged
        assert (shell.leg.wk, shell.leg.epoch, shell.leg.phase) == (first.wk, 1, Phase.TALKING)
        assert len(first.frames) > sent + 20
        assert second.offers.empty()
        entry = await gateway.entry(shell)  # in a memory bucket, which the restart lost
        first.frozen = True  # a real silence is judged again
        assert (await asyncio.wait_for(second.offers.get(), 2)).epoch == 2
        await asyncio.wait_for(second.replies.get(), 1)
        assert (entry["wk"], entry["epoch"], entry["phase"]) == (first.wk, 1, "talking")
        shell.caller_gone(Reason.CALLER_HUNG_UP)
        events = await gateway.events(shell)
        assert kinds(events)[:3] == ["call.offered", "call.claimed", "call.answered"]
        assert kinds(events)[3:] == ["call.worker_lost", "call.claimed", "call.ended"]
        assert caller.log == ["answer"]


async def test_a_stall_of_our_own_fails_nobody_over(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        await gateway.is_sound()
        shell, _ = await gateway.talking()
        for _ in range(3):
            time.sleep(0.45)  # noqa: ASYNC251  the whole loop stands, as under a page-out
            await asyncio.sleep(0.13)
        assert gateway.legs.roster.counters["own_stall"] >= 3
        assert gateway.legs.roster.counters["silent"] == 0
        assert (shell.leg.wk, shell.leg.epoch) == (worker.wk, 1)


async def test_a_draining_worker_hands_the_call_over(server, gateway):
    async with FakeWorker(server.url, capacity=40) as first, FakeWorker(server.url) as second:
        await gateway.knows(first, second)
        _, caller = await gateway.talking()
        assert (await first.command(first.offers.get_nowait(), HandOver(epoch=1))).ok
        offer = await asyncio.wait_for(second.offers.get(), 1)
        assert (offer.epoch, offer.resume.cause) == (2, "drain")
        assert (await asyncio.wait_for(first.releases.get(), 1)).epoch == 1
        assert (await asyncio.wait_for(second.replies.get(), 1)).ok
        assert caller.log == ["answer"]


async def test_the_end_is_stored_once_when_two_publish_it(server, gateway):
    async with FakeWorker(server.url, on_offer=accept) as worker:
        await gateway.knows(worker)
        shell, _ = await gateway.talking()
        call = shell.new.call
        janitor = CallEnded(event_id=event_id(call, "ts", 1), org="default", call=call, at="2026-01-01T00:00:00Z",
                            termination=Termination.of(Reason.LOST))  # fmt: skip
        gateway.outbox.put(janitor, only_first=True)
        shell.caller_gone(Reason.CALLER_HUNG_UP)
        ends = [event for event in await gateway.events(shell) if event.kind == "call.ended"]
        assert [end.termination.reason for end in ends] == [Reason.LOST]
        assert gateway.outbox.counters["superseded"] == 1


async def test_a_caller_who_cancels_during_the_offer_leaves_no_session_behind(server, gateway):
    async with FakeWorker(server.url, late_s=0.03) as worker:
        await gateway.knows(worker)
        shell, caller = gateway.call()
        await asyncio.wait_for(worker.offers.get(), 1)
        shell.caller_gone(Reason.CALLER_CANCELLED)
        releases = [await asyncio.wait_for(worker.releases.get(), 1)]
        assert {release.epoch for release in releases} == {1}
        assert (await asyncio.wait_for(worker.replies.get(), 1)).ok is False
        assert caller.log == []
        assert kinds(await gateway.events(shell)) == ["call.offered", "call.ended"]


async def test_a_call_that_is_not_offered_yet_does_not_stop_the_judgement_of_a_worker(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        new = gateway.call()[0]  # registered, its task has not run
        assert new.leg.phase is Phase.NEW
        shell = gateway.legs._calls[new.new.call]
        shell.worker_gone(type("Gone", (), {"wk": "wk-x", "cause": "gone"})())
        assert shell._timer is None


async def test_draining_ends_what_does_not_end_itself_and_refuses_more(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        _, caller = await gateway.talking()
        await gateway.legs.drain(0.05)
        assert caller.log == ["answer", ("hang_up", Reason.DRAINING)]
        assert gateway.legs.refusal().reason is Reason.DRAINING
        assert len(gateway.legs) == 0


async def test_what_is_malformed_on_the_bus_is_counted_and_stops_nothing(server, gateway):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        control = gateway.bus.control
        for data in b"", b"[]", b"{}", b'{"client":[]}', b'{"client":{"name":null}}', b'{"client":{}}':
            await control.publish(subjects.GONE, data)
            await control.publish(subjects.worker_heartbeat("wk-x"), data)
        await control.publish(subjects.audio("o", gateway.gw, worker.wk, "nocall", "dn"), b"x")
        shell, _ = await gateway.talking()
        data = await gateway.bus.request(subjects.control("default", shell.new.call, "leg"), b'{"kind":"fly"}', 1)
        assert "'fly'" in CommandReply.model_validate_json(data).error
        assert gateway.legs.counters["malformed_heartbeat"] == 6
        assert gateway.legs.counters["malformed_advisory"] >= 3
        assert gateway.legs.counters["frame_for_unknown_call"] == 1


async def test_an_entrance_that_breaks_at_the_end_does_not_keep_the_call_from_ending(gateway, server):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, caller = await gateway.talking()

        def broken(termination):
            raise RuntimeError("no such socket")

        caller.hang_up = broken
        assert (await gateway.command(shell, HangUp())).ok
        async with asyncio.timeout(2):
            await asyncio.gather(*gateway.tasks)
        assert [event.kind for event in await gateway.events(shell)][-1] == "call.ended"
        assert len(gateway.legs) == 0


async def test_an_entrance_that_cannot_answer_ends_the_call(gateway, server):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)

        def broken():
            raise RuntimeError("no such dialog")

        shell, caller = gateway.call()
        caller.answer = broken
        async with asyncio.timeout(2):
            await asyncio.gather(*gateway.tasks)
        assert shell.leg.termination.reason is Reason.INTERNAL_ERROR


async def test_a_gateway_that_goes_down_leaves_no_call_in_the_copy(gateway, server):
    async with FakeWorker(server.url) as worker:
        await gateway.knows(worker)
        shell, _ = await gateway.talking()
        await gateway.entry(shell)
        await gateway.legs.drain(0.05)
        assert not gateway.legs._copy._pending, "what is not written now never will be: the process ends here"
        store = await gateway.bus.js.key_value(subjects.KV_CALLS)
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            await store.get(shell.new.call)


async def test_a_caller_who_is_gone_before_the_calls_task_runs_leaves_a_whole_record(server, gateway):
    shell, _ = gateway.call()
    shell.caller_gone(Reason.CALLER_CANCELLED)
    await until(lambda: not len(gateway.legs))
    assert kinds(await gateway.events(shell)) == ["call.offered", "call.ended"]
