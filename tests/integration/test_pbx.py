"""Calls through Kamailio as the provider, with baresip and SIPp as far ends; what both sides heard is compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio

from libs.audio.level import dbfs
from libs.contracts.commands import Describe, HangUp, Hold, SendDtmf, StateChanged, Transfer
from libs.contracts.events import (
    CallAnswered,
    CallEnded,
    CallHeld,
    CallOffered,
    CallRinging,
    CallTransfer,
    DtmfReceived,
    DtmfSent,
)
from libs.contracts.offer import Offer
from libs.contracts.termination import Reason
from tests.integration.peers import require
from tests.support.baresip import Account, Baresip
from tests.support.fake_worker import accept, accept_unready
from tests.support.pbx import (
    AGENT_SAYS,
    ALICE,
    ALICE_SAYS,
    BOB,
    CAROL,
    CAROL_SAYS,
    FAR_NUMBER,
    TLS_NUMBER,
    UDP_NUMBER,
    Pbx,
    likeness,
    pbx,
)
from tests.support.platform import EventFeed

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
ALIKE = 0.9
SILENT_DBFS = -60
UDP_USER, TLS_USER = "1234567t0", "1234567t1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pbx]:
    for program in ("kamailio", "baresip", "sipp"):
        require(program)
    async with pbx(tmp_path_factory.mktemp("pbx")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def feed(network: Pbx) -> AsyncIterator[EventFeed]:
    """The events of all calls; the agent has forgotten those of the test before."""
    network.agent.forget_calls()
    async with network.callbus.events() as events:
        yield events


async def ended(feed: EventFeed, call: str) -> CallEnded:
    return await feed.wait_where(CallEnded, lambda event: event.call == call)


@asynccontextmanager
async def inbound(
    network: Pbx, account: Account, number: str = UDP_NUMBER, says: bytes = ALICE_SAYS
) -> AsyncIterator[tuple[Baresip, Offer]]:
    """A telephone calls the agent, and both hear each other."""
    async with network.phone(account, says) as phone, asyncio.timeout(40):
        phone.dial(number)
        offer = await network.agent.next_call()
        await phone.event("CALL_ESTABLISHED")
        await network.agent.hears(offer)
        yield phone, offer


async def hangs_up(phone: Baresip, feed: EventFeed, offer: Offer) -> CallEnded:
    """The telephone does; its recording is complete then."""
    phone.command("hangup")
    return await ended(feed, offer.call)


# -- registration -----------------------------------------------------------------------------------------------


async def refreshed(network: Pbx, times: int) -> None:
    users = (UDP_USER, TLS_USER)
    before = {user: network.provider.registrations(user) for user in users}
    async with asyncio.timeout(20):
        while any(network.provider.registrations(user) < before[user] + times for user in users):  # noqa: ASYNC110  a log
            await asyncio.sleep(0.1)


async def test_it_registers_with_digest_over_udp_and_tls_and_refreshes(network: Pbx) -> None:
    await refreshed(network, 2)
    assert f"REGISTER {UDP_USER} over udp" in network.provider.log
    assert f"REGISTER {TLS_USER} over tls" in network.provider.log


async def test_it_registers_again_when_the_provider_was_restarted(network: Pbx) -> None:
    network.provider.stop()
    await network.trunk_is("failed", "tls")  # its connection is gone
    network.provider.start()  # with an empty location table
    await refreshed(network, 1)
    for trunk in ("default", "tls"):
        await network.trunk_is("registered", trunk)


# -- calls ------------------------------------------------------------------------------------------------------


async def test_in_an_inbound_call_both_hear_each_other(network: Pbx, feed: EventFeed) -> None:
    async with inbound(network, network.alice) as (alice, offer):
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 1)
        end = await hangs_up(alice, feed, offer)
        assert likeness(AGENT_SAYS, await alice.recording()) >= ALIKE
    assert (end.termination.reason, end.media.rtp_lost) == (Reason.CALLER_HUNG_UP, 0)
    assert likeness(ALICE_SAYS, network.agent.heard(offer)) >= ALIKE
    offered = await feed.wait_where(CallOffered, lambda event: event.call == offer.call)
    assert (offered.callee, offered.route, offered.direction) == (UDP_NUMBER, "all", "inbound")


async def test_in_a_wideband_call_both_hear_each_other(network: Pbx, feed: EventFeed) -> None:
    async with inbound(network, replace(network.alice, codec="G722")) as (alice, offer):
        assert (offer.state.codec, offer.state.rate_hz) == ("G722", 16000)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 1)
        await hangs_up(alice, feed, offer)
        assert likeness(AGENT_SAYS, await alice.recording(), 16000) >= ALIKE
    assert likeness(ALICE_SAYS, network.agent.heard(offer), 16000) >= ALIKE


async def test_in_an_outbound_call_both_hear_each_other(network: Pbx, feed: EventFeed) -> None:
    async with network.phone(replace(network.alice, answers=True)) as alice:
        reply = await network.originate(ALICE)
        assert reply.ok, reply.error
        offer = await network.agent.next_call()
        assert (offer.call, offer.direction) == (reply.call, "outbound")
        await network.agent.hears(offer)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 1.5)
        await network.agent.asks(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await alice.event("CALL_CLOSED")
        assert (await ended(feed, offer.call)).termination.reason is Reason.AGENT_HUNG_UP
        assert likeness(AGENT_SAYS, await alice.recording()) >= ALIKE
    assert likeness(ALICE_SAYS, network.agent.heard(offer)) >= ALIKE
    assert feed.of(CallAnswered, offer.call)
    assert f"INVITE {ALICE} by {UDP_USER} over udp" in network.provider.log


async def test_what_the_agent_says_to_an_echo_comes_back(network: Pbx, feed: EventFeed) -> None:
    async with network.far_end("uas_echo") as callee:
        await network.originate(FAR_NUMBER)
        offer = await network.agent.next_call()
        await feed.wait_where(CallAnswered, lambda event: event.call == offer.call)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 0.5)
        await network.agent.asks(offer, HangUp(epoch=offer.epoch))
        await callee.succeeded()
    assert likeness(AGENT_SAYS, network.agent.heard(offer)) >= ALIKE


async def test_a_busy_callee_is_the_end_of_the_call(network: Pbx, feed: EventFeed) -> None:
    async with network.far_end("uas_busy") as callee:
        reply = await network.originate(FAR_NUMBER)
        end = await ended(feed, reply.call)
        await callee.succeeded()
    assert (end.termination.reason, end.talk_ms) == (Reason.CALLEE_BUSY, 0)


async def test_a_callee_who_does_not_answer_is_given_up_with_a_cancel(network: Pbx, feed: EventFeed) -> None:
    async with network.far_end("uas_no_answer") as callee:
        reply = await network.originate(FAR_NUMBER, ring_timeout_s=1.5)
        end = await ended(feed, reply.call)
        await callee.succeeded()
        assert f"CANCEL sip:{FAR_NUMBER}@" in callee.messages
    assert end.termination.reason is Reason.CALLEE_NO_ANSWER
    assert [event.status for event in feed.of(CallRinging, reply.call)] == [180]


async def test_a_caller_gives_up_while_it_rings(network: Pbx, feed: EventFeed) -> None:
    network.agent.on_offer = accept_unready
    try:
        async with network.phone(network.alice) as alice:
            alice.dial(UDP_NUMBER)
            offer = await network.agent.next_call()
            await alice.event("CALL_RINGING")
            end = await hangs_up(alice, feed, offer)
    finally:
        network.agent.on_offer = accept
    assert end.termination.reason is Reason.CALLER_CANCELLED
    assert not feed.of(CallAnswered, offer.call)


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_a_call_over_tls_with_srtp(network: Pbx, feed: EventFeed, direction: str) -> None:
    async with network.phone(replace(network.bob, answers=True)) as bob:
        if direction == "inbound":
            bob.dial(TLS_NUMBER)
        else:
            reply = await network.originate(BOB, trunk="tls")
            assert reply.ok, reply.error
        offer = await network.agent.next_call()
        await network.agent.hears(offer)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 1.5)
        end = await hangs_up(bob, feed, offer)
        called = f"INVITE {BOB} by {TLS_USER}" if direction == "outbound" else f"INVITE {TLS_NUMBER} by bob"
        assert f"{called} over tls" in network.provider.log
        assert "SRTP is Enabled" in bob.log
        assert likeness(AGENT_SAYS, await bob.recording()) >= ALIKE
    assert likeness(ALICE_SAYS, network.agent.heard(offer)) >= ALIKE
    assert end.media.rtp_lost == 0
    assert end.media.rtp_unauthentic <= 1  # baresip opens the way with a packet in the clear before it has our answer


# -- in the call ------------------------------------------------------------------------------------------------


async def rtp_sent(network: Pbx, offer: Offer) -> int:
    reply = await network.agent.asks(offer, Describe())
    sent: int = reply.details["media"]["rtp_sent"]
    return sent


async def held(feed: EventFeed, offer: Offer, wanted: bool) -> CallHeld:
    return await feed.wait_where(CallHeld, lambda event: event.call == offer.call and event.held is wanted)


async def comes_back(network: Pbx, offer: Offer) -> float:
    """How much of what the agent says to somebody who echoes comes back."""
    frames = network.agent.frames_of(offer)
    await network.agent.say(offer, AGENT_SAYS)
    await network.agent.hears(offer, 1)
    return likeness(AGENT_SAYS, network.agent.heard(offer, frames))


async def test_on_hold_by_the_caller_the_agent_is_silent_and_deaf_until_they_resume(
    network: Pbx, feed: EventFeed
) -> None:
    async with inbound(network, network.alice, says=4 * ALICE_SAYS) as (alice, offer):
        alice.command("hold")
        assert (await held(feed, offer, True)).by == "remote"
        assert (await network.agent.is_told(StateChanged)).state.held
        async with network.agent.saying(offer, AGENT_SAYS):
            await network.agent.hears(offer, 0.2)  # what was on its way
            sent, frames = await rtp_sent(network, offer), network.agent.frames_of(offer)
            await network.agent.hears(offer, 1)
            assert await rtp_sent(network, offer) <= sent + 1
            assert dbfs(network.agent.heard(offer, frames)) < SILENT_DBFS
        alice.command("resume")
        await held(feed, offer, False)
        frames = network.agent.frames_of(offer)
        await network.agent.hears(offer, 4)
        await hangs_up(alice, feed, offer)
    assert likeness(ALICE_SAYS, network.agent.heard(offer, frames)) >= ALIKE


@pytest.mark.parametrize(("by", "scenario"), [("remote", "uas_holds"), ("command", "uas_held")])
async def test_after_a_hold_both_hear_each_other_again(network: Pbx, feed: EventFeed, by: str, scenario: str) -> None:
    async with network.far_end(scenario) as callee:
        await network.originate(FAR_NUMBER)
        offer = await network.agent.next_call()
        await feed.wait_where(CallAnswered, lambda event: event.call == offer.call)
        assert await comes_back(network, offer) >= ALIKE
        for wanted in (True, False):
            if by == "command":
                await network.agent.asks(offer, Hold(epoch=offer.epoch, held=wanted))
            assert (await held(feed, offer, wanted)).by == by
        assert await comes_back(network, offer) >= ALIKE
        await network.agent.asks(offer, HangUp(epoch=offer.epoch))
        await callee.succeeded()
        sent = "recvonly" if by == "remote" else "sendonly"
        assert f"a={sent}" in callee.messages


async def test_on_hold_by_the_agent_the_caller_is_not_heard(network: Pbx, feed: EventFeed) -> None:
    async with inbound(network, network.alice, says=4 * ALICE_SAYS) as (alice, offer):
        await network.agent.asks(offer, Hold(epoch=offer.epoch, held=True))
        assert (await held(feed, offer, True)).by == "command"
        await network.agent.hears(offer, 0.4)  # what was on its way
        frames = network.agent.frames_of(offer)
        await network.agent.hears(offer, 1)
        assert dbfs(network.agent.heard(offer, frames)) < SILENT_DBFS
        await hangs_up(alice, feed, offer)


async def test_keys_are_pressed_both_ways(network: Pbx, feed: EventFeed) -> None:
    async with inbound(network, network.alice) as (alice, offer):
        for key in "5*":
            alice.command("sndcode", key)
            await feed.wait_where(DtmfReceived, lambda event, key=key: (event.call, event.digit) == (offer.call, key))
        await network.agent.asks(offer, SendDtmf(epoch=offer.epoch, digits="42#"))
        pressed = [(await alice.event("CALL_DTMF_START"))["param"] for _ in range(3)]
        await hangs_up(alice, feed, offer)
    assert pressed == ["4", "2", "#"]
    assert [event.digit for event in feed.of(DtmfReceived, offer.call)] == ["5", "*"]
    assert [event.digits for event in feed.of(DtmfSent, offer.call)] == ["42#"]


# -- transfers --------------------------------------------------------------------------------------------------


async def transferred(feed: EventFeed, offer: Offer) -> CallTransfer:
    return await feed.wait_where(
        CallTransfer, lambda event: event.call == offer.call and event.state in ("done", "failed")
    )


@pytest.mark.parametrize(("mode", "codec"), [("refer", "pcma"), ("bridge", "pcma"), ("bridge", "G722")])
async def test_after_a_transfer_the_caller_and_the_target_hear_each_other(
    network: Pbx, feed: EventFeed, mode: str, codec: str
) -> None:
    target = replace(network.carol, codec=codec)
    async with (
        inbound(network, network.alice, says=6 * ALICE_SAYS) as (alice, offer),
        network.phone(target, says=CAROL_SAYS) as carol,
    ):
        await network.agent.asks(offer, Transfer(epoch=offer.epoch, target=CAROL, mode=mode))
        transfer = await transferred(feed, offer)
        assert (transfer.state, transfer.mode) == ("done", mode), transfer.detail
        await carol.event("CALL_ESTABLISHED")
        await asyncio.sleep(0.2)
        frames = network.agent.frames_of(offer)
        await asyncio.sleep(4.5)
        first, other = (carol, alice) if codec == "pcma" else (alice, carol)
        first.command("hangup")
        await other.event("CALL_CLOSED")
        assert (await ended(feed, offer.call)).termination.reason is Reason.TRANSFERRED
        assert likeness(CAROL_SAYS, (await alice.recordings())[-1]) >= ALIKE
        assert likeness(ALICE_SAYS, await carol.recording(), target.rate_hz) >= ALIKE
    assert network.agent.frames_of(offer) == frames  # whoever has left listens no more


@pytest.mark.parametrize("mode", ["refer", "bridge"])
async def test_after_a_transfer_to_somebody_busy_the_caller_is_back_with_the_agent(
    network: Pbx, feed: EventFeed, mode: str
) -> None:
    async with network.far_end("uas_busy") as callee, inbound(network, network.alice) as (alice, offer):
        await network.agent.asks(offer, Transfer(epoch=offer.epoch, target=FAR_NUMBER, mode=mode))
        transfer = await transferred(feed, offer)
        await callee.succeeded()
        assert (transfer.state, transfer.status) == ("failed", 486)
        await network.agent.say(offer, AGENT_SAYS)
        await network.agent.hears(offer, 0.5)
        end = await hangs_up(alice, feed, offer)
        assert end.termination.reason is Reason.CALLER_HUNG_UP
        assert likeness(AGENT_SAYS, (await alice.recordings())[0]) >= ALIKE
