"""Peers that do what RFC 3261 allows and few do, or what it forbids: the call and its record are right all the same."""

import asyncio
import base64
from contextlib import asynccontextmanager

import pytest

from libs.contracts.commands import Transfer
from libs.contracts.config import Fallback
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallRinging
from libs.contracts.termination import Reason
from tests.unit.sip_gateway.conftest import AGENT, ROUTE, world
from tests.unit.sip_gateway.far_end import FarEnd, answering
from tests.unit.sip_gateway.raw import Raw, header, sdp
from tests.unit.sip_gateway.test_in_call import TARGET, states
from tests.unit.sip_gateway.test_outbound import originate


@asynccontextmanager
async def calling(server, **settings):
    """A call of ours, and its INVITE as the provider sees it."""
    async with await Raw.open() as far:
        account = {"sip_server": "127.0.0.1", "sip_port": far.port, "sip_caller": "+4930555"}
        async with world(server, **(account | settings)) as here:
            await here.until(lambda: all(trunk.is_usable for trunk in here.gateway.trunks))
            await here.worker()
            assert (await originate(here)).ok
            yield here, far, await far.message("INVITE ")


@asynccontextmanager
async def called(server, route=ROUTE, **settings):
    """A gateway, and somebody who can call it."""
    async with world(server, AGENT, route, **settings) as here, await Raw.open(here.gateway.transport.port) as caller:
        here.worker_ = await here.worker(capacity=50)
        yield here, caller


# -- called by us ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reliable", [(("Require", "100rel"), ("RSeq", "1")), ()], ids=["reliable", "unreliable"])
async def test_the_answer_came_with_183_and_the_200_has_none(server, reliable):
    async with calling(server) as (here, far, invite):
        far.reply(invite, "183 Session Progress", headers=reliable, body=sdp())
        await here.event(CallRinging)
        far.reply(invite, "200 OK")
        await far.message("ACK ")
        assert (await here.event(CallAnswered)).codec == "PCMA"
        far.ask(invite, "1 BYE")
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLEE_HUNG_UP


async def test_what_a_peer_says_of_the_end_is_bounded_in_the_record(server):
    async with calling(server) as (here, far, invite):
        far.reply(invite, f"480 {'x' * 9000}\x01")
        assert len((await here.event(CallEnded)).termination.detail) < 300
    async with calling(server) as (here, far, invite):
        far.reply(invite, "200 OK", body=sdp())
        await far.message("ACK ")
        far.ask(invite, "1 BYE", headers=(("Reason", f'SIP;text="{"y" * 9000}"'),))
        assert len((await here.event(CallEnded)).termination.detail) < 300


# -- calling us -------------------------------------------------------------------------------------------------


async def test_a_bye_before_the_answer_is_a_cancelled_call(server):
    async with called(server, ROUTE.model_copy(update={"answer": "manual"})) as (here, caller):
        caller.invite()
        ringing = await caller.message("SIP/2.0 180")
        caller.request("2 BYE", to_tag=header(ringing, "To").partition(";tag=")[2])
        await caller.message("SIP/2.0 487")
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_CANCELLED


async def test_empty_lines_before_an_invite_are_no_way_round_the_limit(server):
    async with called(server, sip_invites_per_second=1) as (here, caller):
        for number in range(6):
            caller.invite(f"call-{number}", before="\r\n")
        await caller.message("SIP/2.0 503", 3)
        await here.event(CallAnswered, 2)
        assert len(here.of(CallOffered)) == 2


async def test_keys_by_info_reach_the_bridged_target(server):
    async with await FarEnd.open(answering) as target:
        account = {"sip_server": "127.0.0.1", "sip_port": target.port, "sip_caller": "+4930555"}
        async with called(server, **account) as (here, caller):
            await here.until(lambda: all(trunk.is_usable for trunk in here.gateway.trunks))
            caller.invite()
            tag = header(await caller.message("SIP/2.0 200"), "To").partition(";tag=")[2]
            caller.request("1 ACK", to_tag=tag)
            offer = await here.worker_.offers.get()
            await here.worker_.command(offer, Transfer(epoch=offer.epoch, target=TARGET, mode="bridge"))
            await here.until(lambda: "done" in states(here))
            relay = (("Content-Type", "application/dtmf-relay"),)
            caller.request("2 INFO", to_tag=tag, headers=relay, body="Signal=5\r\nDuration=160\r\n")
            await caller.final("2 INFO")
            await asyncio.sleep(0.4)  # the key's packets
            keys = {p.payload[0] for p in target.packets(target.calls[0]) if p.payload_type == 101}
            assert keys == {5}


# -- one call and all the others ---------------------------------------------------------------------------------


async def test_a_crowd_that_no_agent_takes_is_not_announced_to_without_end(server):
    fallback = Fallback(kind="message", message_ulaw_b64=base64.b64encode(b"\xff" * 8000).decode())
    async with called(server, ROUTE.model_copy(update={"fallback": fallback}), max_calls=1) as (here, caller):
        here.gateway.exchange.last_words.most = 2
        for number in range(5):  # one has the agent, two hear the message
            caller.invite(f"call-{number}")
            await caller.message("SIP/2.0 ", 3 * number)
        await caller.message("SIP/2.0 503", 1)
        assert sum(text.startswith("SIP/2.0 200") for text in caller.got) == 3


async def test_a_defect_at_the_end_of_one_call_ends_no_other(server, monkeypatch):
    async with called(server) as (here, caller):
        caller.invite("bad")
        caller.invite("good")
        await here.event(CallAnswered, 2)

        plain = here.gateway.exchange.close_rtp

        def broken(*args) -> None:
            plain(*args)
            raise ValueError("a defect")

        monkeypatch.setattr(here.gateway.exchange, "close_rtp", broken)
        ok = next(text for text in caller.got if text.startswith("SIP/2.0 200") and header(text, "Call-ID") == "bad")
        tag = header(ok, "To").partition(";tag=")[2]
        caller.request("1 ACK", "bad", to_tag=tag)
        caller.request("2 BYE", "bad", to_tag=tag)
        await here.event(CallEnded)
        await here.until(lambda: here.gateway.counters["defects"])
        caller.invite("another")
        await here.event(CallAnswered, 3)
        assert len(here.of(CallEnded)) == 1
