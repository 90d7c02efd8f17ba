"""What happens within a call: hold, transfers by REFER and by a bridge, keys; and what is refused with a sentence."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts.commands import Hold, SayNow, SendDtmf, Transfer
from libs.contracts.events import CallEnded, CallHeld, CallTransfer
from libs.contracts.termination import Reason
from libs.contracts.wire import agent_command_decoder
from libs.sip.events import Answered, Ended, SessionChanged, TransferRequested
from libs.sip.sdp import Direction
from tests.unit.sip_gateway.conftest import world
from tests.unit.sip_gateway.far_end import Cancelled, FarEnd, answering, refusing, ringing

VOICE = tone(440, 400, 8000)
OTHER = tone(700, 400, 8000)
TARGET = "+493012345678"


@asynccontextmanager
async def talking(server, *, script=ringing, codecs=("PCMU",), accepts_refer=False, **settings):
    """A caller who talks with the agent, and a provider that can be called."""
    async with (
        await FarEnd.open(ringing, accepts_refer=accepts_refer) as caller,
        await FarEnd.open(script) as provider,
        world(
            server, **({"sip_server": "127.0.0.1", "sip_port": provider.port, "sip_caller": "+4930555"} | settings)
        ) as here,
    ):
        await here.until(lambda: all(trunk.is_usable for trunk in here.gateway.trunks))
        here.worker_ = await here.worker()
        here.dialog = await caller.talk(here.gateway.transport.port, codecs=codecs)
        here.offer_ = await here.worker_.offers.get()
        yield here, caller, provider


async def command(here, wanted):
    return await here.worker_.command(here.offer_, wanted.model_copy(update={"epoch": here.offer_.epoch}))


def states(here) -> list[str]:
    return [event.state for event in here.of(CallTransfer)]


# -- hold -----------------------------------------------------------------------------------------------------


async def test_hold_offers_sendonly_and_back_sendrecv(server):
    async with talking(server) as (here, caller, _):
        assert (await command(here, Hold(held=True))).ok
        changed = await caller.event(SessionChanged)
        assert changed.negotiated.direction is Direction.RECVONLY
        assert (await command(here, Hold(held=False))).ok
        await caller.until(lambda: sum(isinstance(event, SessionChanged) for event in caller.events) == 2)
        last = [event for event in caller.events if isinstance(event, SessionChanged)][-1]
        assert last.negotiated.direction is Direction.SENDRECV
        await here.event(CallHeld, 2)
        assert [(event.held, event.by) for event in here.of(CallHeld)] == [(True, "command"), (False, "command")]
        await caller.speak(here.dialog, VOICE)
        await here.until(lambda: best_correlation(VOICE[:1600], heard_by_agent(here))[0] > 0.98)


async def test_a_refresh_of_the_held_side_is_no_hold_of_its_own(server):
    async with talking(server) as (here, caller, _):
        await command(here, Hold(held=True))
        await caller.event(SessionChanged)
        await asyncio.sleep(0.05)  # the ACK is on its way
        caller.act(caller.agent.hold(here.dialog, caller.loop.time(), Direction.RECVONLY))
        await caller.event(Answered)
        await caller.until(lambda: sum(isinstance(event, Answered) for event in caller.events) == 2)
        await here.event(CallHeld)
        assert {event.by for event in here.of(CallHeld)} == {"command"}


def heard_by_agent(here) -> bytes:
    return b"".join(frame.payload for frame in here.worker_.frames)


# -- REFER ------------------------------------------------------------------------------------------------------


async def test_a_blind_transfer_reports_its_progress_and_ends_the_call(server):
    async with talking(server, accepts_refer=True) as (here, caller, _):
        assert (await command(here, Transfer(target="030 12345678"))).ok
        asked = await caller.event(TransferRequested)
        assert (asked.target.user, asked.target.host) == (TARGET, "127.0.0.1")
        for status in (180, 200):
            caller.act(caller.agent.notify_transfer(here.dialog, status, caller.loop.time()))
        await caller.event(Ended)
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.TRANSFERRED
        assert states(here) == ["requested", "ringing", "done"]
        assert {event.mode for event in here.of(CallTransfer)} == {"refer"}


async def test_a_refused_transfer_returns_to_the_agent(server):
    async with talking(server) as (here, caller, _):
        assert (await command(here, Transfer(target=TARGET))).ok
        failed = await here.event(CallTransfer, 2)
        assert (failed.state, failed.status) == ("failed", 603)
        assert here.of(CallEnded) == []
        await caller.speak(here.dialog, VOICE)
        await here.until(lambda: best_correlation(VOICE[:1600], heard_by_agent(here))[0] > 0.98)


async def test_a_target_that_is_busy_returns_to_the_agent(server):
    async with talking(server, accepts_refer=True) as (here, caller, _):
        await command(here, Transfer(target=TARGET))
        await caller.event(TransferRequested)
        caller.act(caller.agent.notify_transfer(here.dialog, 486, caller.loop.time()))
        failed = await here.event(CallTransfer, 2)
        assert (failed.state, failed.status) == ("failed", 486)


async def test_a_bye_in_place_of_the_last_notify_is_a_transfer(server):
    async with talking(server, accepts_refer=True) as (here, caller, _):
        await command(here, Transfer(target=TARGET))
        await caller.event(TransferRequested)
        await here.until(lambda: states(here) == ["requested"])
        await asyncio.sleep(0.05)  # the 202 is on its way
        caller.act(caller.agent.bye(here.dialog, caller.loop.time()))
        assert (await here.event(CallEnded)).termination.reason is Reason.TRANSFERRED
        assert states(here) == ["requested", "done"]


async def test_nobody_on_the_line_makes_us_call_others(server):
    async with talking(server) as (here, caller, provider):
        caller.act(caller.agent.refer(here.dialog, f"sip:+4930999@127.0.0.1:{provider.port}", caller.loop.time()))
        await caller.until(lambda: any("SIP/2.0 603" in text for text in caller.messages))
        assert here.gateway.counters["refer_refused"] == 1
        assert provider.calls == []
        assert here.of(CallTransfer) == []


# -- bridge -----------------------------------------------------------------------------------------------------


async def test_a_bridged_transfer_joins_caller_and_target_and_ends_with_either(server):
    async with talking(server, script=answering) as (here, caller, provider):
        assert (await command(here, Transfer(target=TARGET, mode="bridge"))).ok
        target = await provider.call()
        assert (target.request_uri.user, target.from_uri.user) == (TARGET, "+4930555")
        await here.until(lambda: "done" in states(here))
        release = await here.worker_.releases.get()
        assert release.reason is Reason.TRANSFERRED
        caller.packets(here.dialog)
        provider.packets(target)
        await asyncio.gather(caller.speak(here.dialog, VOICE), provider.speak(target, OTHER, Law.PCMA))
        await asyncio.sleep(0.15)
        to_target = b"".join(Law.PCMA.decode(p.payload) for p in provider.packets(target) if p.payload_type == 8)
        to_caller = b"".join(Law.PCMU.decode(p.payload) for p in caller.packets(here.dialog) if p.payload_type == 0)
        assert best_correlation(VOICE[: len(VOICE) // 4], to_target)[0] > 0.95
        assert best_correlation(OTHER[: len(OTHER) // 4], to_caller)[0] > 0.95
        assert here.of(CallEnded) == []
        caller.act(caller.agent.bye(here.dialog, caller.loop.time()))
        await provider.event(Ended)
        assert (await here.event(CallEnded)).termination.reason is Reason.TRANSFERRED


async def test_the_target_hangs_up(server):
    async with talking(server, script=answering) as (here, caller, provider):
        await command(here, Transfer(target=TARGET, mode="bridge"))
        target = await provider.call()
        await here.until(lambda: "done" in states(here))
        provider.bye(target)
        await caller.event(Ended)
        assert (await here.event(CallEnded)).termination.reason is Reason.TRANSFERRED
        assert here.gateway.exchange.owners == {}


async def test_a_target_that_vanishes_ends_the_call(server):
    async with talking(server, script=answering, rtp_timeout_s=1.5) as (here, caller, provider):
        await command(here, Transfer(target=TARGET, mode="bridge"))
        target = await provider.call()
        await here.until(lambda: "done" in states(here))
        speaking = asyncio.ensure_future(caller.speak(here.dialog, tone(440, 6000, 8000)))
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.TRANSFERRED
        assert "no RTP from the target" in ended.termination.detail
        assert target.dialog in provider.rtp
        speaking.cancel()


async def test_a_busy_target_returns_the_caller_to_the_agent(server):
    async with talking(server, script=refusing(486)) as (here, caller, _):
        await command(here, Transfer(target=TARGET, mode="bridge"))
        failed = await here.event(CallTransfer, 2)
        assert (failed.state, failed.status, failed.mode) == ("failed", 486, "bridge")
        await caller.speak(here.dialog, VOICE)
        await here.until(lambda: best_correlation(VOICE[:1600], heard_by_agent(here))[0] > 0.98)


async def test_a_caller_who_leaves_while_the_target_rings_ends_both(server):
    async with talking(server, script=ringing) as (here, caller, provider):
        await command(here, Transfer(target=TARGET, mode="bridge"))
        await provider.call()
        await here.until(lambda: "ringing" in states(here))
        caller.act(caller.agent.bye(here.dialog, caller.loop.time()))
        await provider.event(Cancelled)
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP
        assert states(here)[-1] == "failed"


async def announcing(here, **wanted):
    """A transfer whose target has answered, and what the session is to say to it."""
    assert (await command(here, Transfer(target=TARGET, announcement="Frau Weber ist am Apparat.", **wanted))).ok
    decoder = agent_command_decoder()
    async with asyncio.timeout(5):
        while not isinstance(said := decoder.decode(await here.worker_.told.get()), SayNow):
            pass
    return said.text


async def agent_speaks(here, pcm: bytes, *, ends=True, first=0) -> None:
    """As the session does, frame by frame; the last one is marked."""
    frames = len(pcm) // 320
    for number in range(frames):
        piece = pcm[320 * number : 320 * (number + 1)]
        here.worker_.says(here.offer_, first + number, piece, end=ends and number == frames - 1)
        await asyncio.sleep(0.018)


def heard(far, call, law=Law.PCMU) -> bytes:
    return b"".join(law.decode(p.payload) for p in far.packets(call) if p.payload_type == law.payload_type)


async def test_the_target_hears_the_announcement_the_caller_does_not_then_both_hear_each_other(server):
    async with talking(server, script=answering) as (here, caller, provider):
        assert await announcing(here) == "Frau Weber ist am Apparat."  # `auto` means a bridge then
        target = await provider.call()
        here.worker_.frames.clear()
        for far, call in ((caller, here.dialog), (provider, target)):
            far.packets(call)
        words = tone(520, 600, 8000)
        await asyncio.gather(
            agent_speaks(here, words), caller.speak(here.dialog, VOICE), provider.speak(target, OTHER, Law.PCMA)
        )
        assert states(here)[-1] != "done"
        await here.until(lambda: "done" in states(here))
        assert {event.mode for event in here.of(CallTransfer)} == {"bridge"}
        assert (await here.worker_.releases.get()).reason is Reason.TRANSFERRED
        to_caller = heard(caller, here.dialog)
        assert best_correlation(words[:3200], heard(provider, target, Law.PCMA))[0] > 0.95
        assert len(to_caller) > 8000
        assert max(best_correlation(pcm[:3200], to_caller)[0] for pcm in (words, OTHER)) < 0.5
        assert heard_by_agent(here).strip(b"\0") == b""
        again = {"first": len(VOICE) // 320}
        await asyncio.gather(
            caller.speak(here.dialog, VOICE, **again), provider.speak(target, OTHER, Law.PCMA, **again)
        )
        await asyncio.sleep(0.15)
        assert best_correlation(VOICE[:1600], heard(provider, target, Law.PCMA))[0] > 0.95
        assert best_correlation(OTHER[:1600], heard(caller, here.dialog))[0] > 0.95


async def test_what_the_agent_still_tells_the_caller_comes_before_the_announcement(server):
    async with talking(server, script=answering) as (here, caller, provider):
        words = tone(520, 400, 8000)
        speaking = asyncio.ensure_future(agent_speaks(here, words))
        await here.until(lambda: next(iter(here.legs._calls.values())).audio.playout.is_talking)
        await announcing(here)
        await speaking
        assert best_correlation(words[:1600], heard(caller, here.dialog))[0] > 0.95
        assert best_correlation(words[:1600], heard(provider, await provider.call(), Law.PCMA))[0] < 0.5


async def test_a_target_that_hangs_up_during_the_announcement_returns_the_caller_to_the_agent(server):
    async with talking(server, script=answering) as (here, caller, provider):
        await announcing(here)
        target = await provider.call()
        provider.bye(target)
        failed = await here.event(CallTransfer, 3)
        assert (failed.state, failed.detail) == ("failed", "the target hung up before it was joined")
        await caller.speak(here.dialog, VOICE)
        await here.until(lambda: best_correlation(VOICE[:1600], heard_by_agent(here))[0] > 0.98)
        caller.packets(here.dialog)
        await agent_speaks(here, OTHER)  # the announcement was under way: it is nothing for the caller
        words = tone(520, 400, 8000)
        await agent_speaks(here, words, first=len(OTHER) // 320)
        await asyncio.sleep(0.1)
        told = heard(caller, here.dialog)
        assert best_correlation(OTHER[:1600], told)[0] < 0.5
        assert best_correlation(words[:1600], told)[0] > 0.95
        assert here.of(CallEnded) == []


async def test_a_caller_who_leaves_during_the_announcement_ends_both(server):
    async with talking(server, script=answering) as (here, caller, provider):
        await announcing(here)
        caller.act(caller.agent.bye(here.dialog, caller.loop.time()))
        await provider.event(Ended)
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP
        assert states(here)[-1] == "failed"
        assert here.gateway.exchange.owners == {}


# -- refused with a sentence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (Transfer(target="+4990012345"), "special-rate"),
        (Transfer(target="+12125550100", mode="bridge"), "allowed are"),
        (Transfer(target="Hans"), "not a telephone number"),
        (Transfer(target=TARGET, mode="refer", announcement="Gleich."), "announces nothing"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_a_sentence(server, wanted, word):
    async with talking(server, script=answering) as (here, _, provider):
        reply = await command(here, wanted)
        assert not reply.ok
        assert word in reply.error
        assert provider.calls == []
        assert here.of(CallTransfer) == []


async def test_a_bridge_needs_a_trunk(server):
    async with await FarEnd.open(ringing) as caller, world(server) as here:
        here.worker_ = await here.worker()
        await caller.talk(here.gateway.transport.port)
        here.offer_ = await here.worker_.offers.get()
        reply = await command(here, Transfer(target=TARGET, mode="bridge"))
        assert "none with a server is usable" in reply.error


async def test_keys_are_pressed_as_telephone_events(server):
    async with talking(server) as (here, caller, _):
        assert (await command(here, SendDtmf(digits="4#"))).ok
        await asyncio.sleep(0.5)
        assert {p.payload[0] for p in caller.packets(here.dialog) if p.payload_type == 101} == {4, 11}
