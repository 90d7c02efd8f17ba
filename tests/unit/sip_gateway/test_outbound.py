"""Calls that the gateway places: what the provider sees, what comes of each answer, who hears whom."""

import asyncio
import re
from contextlib import asynccontextmanager

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.commands import HangUp, Ready, SendDtmf
from libs.contracts.config import OrgConfig
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallRinging, DtmfSent, SipTraced
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.rpc import RpcReply
from libs.contracts.termination import Reason
from libs.sip.digest_server import DigestServer
from tests.support.fake_worker import accept_unready
from tests.unit.sip_gateway.conftest import AGENT, world
from tests.unit.sip_gateway.far_end import Cancelled, Confirmed, Ended, FarEnd, answering, refusing, ringing

VOICE = tone(440, 400, 8000)
NUMBER = "+493012345678"


def account(far, **more) -> dict:
    return {"sip_server": "127.0.0.1", "sip_port": far.port, "sip_caller": "+4930555"} | more


@asynccontextmanager
async def calling(server, script, *, doorman=None, **settings):
    async with await FarEnd.open(script, doorman) as far, world(server, **account(far, **settings)) as here:
        await here.until(lambda: all(trunk.is_usable for trunk in here.gateway.trunks))
        yield here, far


async def originate(here, to=NUMBER, **fields) -> OriginateReply:
    request = Originate(to=to, agent="bestellung", **fields)
    data = await here.bus.request(subjects.originate("default", "sip"), request.to_json(), 2)
    return OriginateReply.model_validate_json(data)


async def end_of(here) -> CallEnded:
    return await here.event(CallEnded)


async def test_the_number_is_dialled_when_the_agent_is_ready_and_not_before(server):
    async with calling(server, answering) as (here, far):
        worker = await here.worker(on_offer=accept_unready)
        reply = await originate(here)
        assert reply.ok
        offer = await worker.offers.get()
        assert (offer.direction, offer.callee, offer.caller, offer.call) == ("outbound", NUMBER, "+4930555", reply.call)
        assert not offer.state.answered
        await asyncio.sleep(0.1)
        assert far.calls == []
        await worker.command(offer, Ready(epoch=offer.epoch))
        call = await far.call()
        assert (call.request_uri.user, call.from_uri.user) == (NUMBER, "+4930555")
        await far.event(Confirmed)
        await here.event(CallAnswered)
        far.bye(call)
        assert (await end_of(here)).termination.reason is Reason.CALLEE_HUNG_UP
        offered = here.of(CallOffered)[0]
        assert (offered.direction, offered.callee) == ("outbound", NUMBER)


async def test_both_hear_each_other(server):
    async with calling(server, answering) as (here, far):
        worker = await here.worker()
        await originate(here)
        offer = await worker.offers.get()
        call = await far.call()
        await here.event(CallAnswered)
        for number in range(len(VOICE) // 320):
            worker.says(offer, number, VOICE[number * 320 : (number + 1) * 320])
        await far.speak(call, VOICE, Law.PCMA)
        await here.until(lambda: len(worker.frames) > 15)
        up = b"".join(frame.payload for frame in worker.frames)
        assert best_correlation(VOICE[: len(VOICE) // 4], up)[0] > 0.98
        down = b"".join(Law.PCMA.decode(packet.payload) for packet in far.packets(call) if packet.payload_type == 8)
        assert best_correlation(VOICE[: len(VOICE) // 4], down)[0] > 0.98
        await worker.command(offer, SendDtmf(epoch=offer.epoch, digits="1#"))
        await here.event(DtmfSent)
        await asyncio.sleep(0.5)
        assert {packet.payload[0] for packet in far.packets(call) if packet.payload_type == 101} == {1, 11}
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await far.event(Ended)
        assert (await end_of(here)).termination.reason is Reason.AGENT_HUNG_UP


async def test_ringing_is_told(server):
    async with calling(server, ringing) as (here, far):
        await here.worker()
        await originate(here)
        rang = await here.event(CallRinging)
        assert (rang.status, rang.early_media) == (180, False)
        await far.call()


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (404, (), Reason.NUMBER_INVALID),
        (486, (), Reason.CALLEE_BUSY),
        (480, (), Reason.CALLEE_NO_ANSWER),
        (480, (("Reason", "Q.850;cause=17"),), Reason.CALLEE_BUSY),
        (603, (), Reason.CALLEE_DECLINED),
        (403, (), Reason.TRUNK_FAILED),
        (488, (), Reason.NO_COMMON_CODEC),
        (302, (("Contact", "<sip:+491900000@127.0.0.1>"),), Reason.TRUNK_FAILED),
        (503, (), Reason.TRUNK_FAILED),
    ],
)
async def test_a_refusal_is_the_calls_end(server, status, headers, reason):
    async with calling(server, refusing(status, *headers)) as (here, far):
        await here.worker()
        assert (await originate(here)).ok
        ended = await end_of(here)
        assert ended.termination.reason is reason
        assert str(status) in ended.termination.detail
        assert len(far.calls) == 1
        assert here.of(CallAnswered) == []


async def test_nobody_picks_up(server):
    async with calling(server, ringing) as (here, far):
        await here.worker()
        await originate(here, ring_timeout_s=1)
        await far.event(Cancelled)
        ended = await end_of(here)
        assert ended.termination.reason is Reason.CALLEE_NO_ANSWER


async def test_hanging_up_while_it_rings_cancels(server):
    async with calling(server, ringing) as (here, far):
        worker = await here.worker()
        await originate(here)
        offer = await worker.offers.get()
        await here.event(CallRinging)
        assert (await worker.command(offer, HangUp(epoch=None))).ok
        await far.event(Cancelled)
        assert (await end_of(here)).termination.reason is Reason.OPERATOR_HUNG_UP


async def test_an_answer_that_crosses_the_cancel_gets_ack_and_bye(server):
    def late(far, call):
        far.act(far.agent.ring(call.dialog, far.loop.time()))
        plain = far.datagram_received

        def cross(data, addr):
            if data.startswith(b"CANCEL "):
                far.datagram_received = plain
                far.messages.append(data.decode())
                far.answer(call)
            else:
                plain(data, addr)

        far.datagram_received = cross

    async with calling(server, late) as (here, far):
        worker = await here.worker()
        await originate(here)
        offer = await worker.offers.get()
        await here.event(CallRinging)
        await worker.command(offer, HangUp(epoch=None))
        assert (await far.event(Ended)).cause == "remote_bye"
        assert far.requests("ACK")
        await end_of(here)
        assert len(here.of(CallEnded)) == 1


async def test_an_answer_without_a_common_codec_gets_ack_and_bye(server):
    def g729(far, call):
        sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 18\r\n"
        far.act(far.agent.answer(call.dialog, sdp, far.loop.time()))

    async with calling(server, g729) as (here, far):
        await here.worker()
        await originate(here)
        assert (await far.event(Ended)).cause == "remote_bye"
        assert (await end_of(here)).termination.reason is Reason.NO_COMMON_CODEC


# -- what the provider sees ---------------------------------------------------------------------------------


def header(text: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r$", text, re.MULTILINE)
    return found[1] if found else ""


async def test_a_provider_that_asks_for_a_password_gets_it_for_registration_and_calls(server):
    doorman = DigestServer("provider", {"1234567t0": "geheim"}.get, b"x" * 32, lambda: "t")
    account = {"sip_username": "1234567t0", "sip_password": "geheim"}
    async with calling(server, answering, doorman=doorman, **account) as (here, far):
        await here.worker()
        await originate(here)
        call = await far.call()
        assert call.username == "1234567t0"
        assert "sip:1234567t0@127.0.0.1" in far.registered[0]


async def test_wrong_passwords_end_at_the_trunk(server):
    doorman = DigestServer("provider", {"1234567t0": "other"}.get, b"x" * 32, lambda: "t")
    async with calling(server, answering, doorman=doorman) as (here, far):
        await here.worker()
        await originate(here)
        assert (await end_of(here)).termination.reason is Reason.TRUNK_FAILED
        assert far.calls == []


async def test_the_callers_number_is_asserted(server):
    async with calling(server, ringing) as (here, far):
        await here.worker()
        await originate(here, caller="030 999999")
        invite = await far.request("INVITE")
        assert "sip:+4930999999@127.0.0.1" in header(invite, "From")
        assert header(invite, "P-Asserted-Identity") == "<sip:+4930999999@127.0.0.1>"
        assert header(invite, "Privacy") == ""


async def test_an_anonymous_caller_is_known_to_the_trunk_only(server):
    async with calling(server, ringing) as (here, far):
        await here.worker()
        await originate(here, caller="anonymous")
        invite = await far.request("INVITE")
        assert header(invite, "From").startswith('"Anonymous" <sip:anonymous@anonymous.invalid>')
        assert header(invite, "Privacy") == "id"
        assert header(invite, "P-Asserted-Identity") == "<sip:+4930555@127.0.0.1>"


# -- fences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["+4990012345", "+12125550100", "110", "sip:anna@127.0.0.1", "Hans"])
async def test_what_may_not_be_called_is_refused_with_a_sentence(server, to):
    async with calling(server, answering) as (here, far):
        reply = await originate(here, to=to)
        assert not reply.ok
        assert reply.error
        assert far.calls == []


async def test_the_hours_attempts_are_counted(server):
    async with calling(server, refusing(486), sip_attempts_per_hour=1) as (here, _):
        await here.worker()
        assert (await originate(here)).ok
        assert (await originate(here)).reason is Reason.TOO_MANY_ATTEMPTS


async def test_a_trunk_of_another_organisation_is_not_used(server, tmp_path):
    async with await FarEnd.open(answering) as far:
        file = tmp_path / "trunks.yaml"
        file.write_text(
            f"trunks: [{{name: theirs, server: 127.0.0.1, port: {far.port}, organisation: other, caller: '+4930555'}}]"
        )
        async with world(server, sip_trunks_file=file) as here:
            await here.until(lambda: all(trunk.is_usable for trunk in here.gateway.trunks))
            reply = await originate(here)
            assert reply.reason is Reason.TRUNK_FAILED
            assert "no trunk that can place calls of organisation default" in reply.error


# -- several servers, several trunks --------------------------------------------------------------------------


async def test_the_next_server_is_tried_when_one_says_503(server):
    async with await FarEnd.open(refusing(503)) as bad, calling(server, answering) as (here, good):
        await here.worker()
        trunk = here.gateway.trunks.named("default")
        trunk.destinations = (("127.0.0.1", bad.port), *trunk.destinations)
        await originate(here)
        await here.event(CallAnswered)
        assert len(bad.calls) == len(good.calls) == 1


async def test_two_trunks_register_at_once_and_each_is_told_of(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "geheim")
    async with await FarEnd.open(answering) as first, await FarEnd.open(answering) as second:
        second.refuses = 403
        file = tmp_path / "trunks.yaml"
        lines = [
            f"  - {{name: {name}, server: 127.0.0.1, port: {far.port}, username: '100', password: '${{SECRET}}'}}\n"
            for name, far in (("first", first), ("second", second))
        ]
        file.write_text("trunks:\n" + "".join(lines))
        async with world(server, sip_trunks_file=file) as here:
            await here.until(lambda: [t.state for t in here.gateway.trunks] == ["registered", "failed"])
            assert "sip:100-first@" in first.registered[0]
            data = await here.bus.request(subjects.rpc("sip_gateway", "trunks"), b"{}", 1)
            told = RpcReply.model_validate_json(data).data
            assert [(t["name"], t["state"], t["problem"]) for t in told] == [
                ("first", "registered", ""), ("second", "failed", "403 Forbidden"),
            ]  # fmt: skip
            assert told[1]["next_try_in_s"] > 60
            await here.gateway.leave()
            await first.until(lambda: any("expires=0" in contact for contact in first.registered))


# -- traces ---------------------------------------------------------------------------------------------------


async def test_every_message_of_a_placed_call_is_traced_without_credentials(server):
    doorman = DigestServer("provider", {"1234567t0": "geheim"}.get, b"x" * 32, lambda: "t")
    account = {"sip_username": "1234567t0", "sip_password": "geheim"}
    async with calling(server, answering, doorman=doorman, **account) as (here, far):
        await here.worker()
        reply = await originate(here)
        call = await far.call()
        await here.event(CallAnswered)
        far.bye(call)
        await here.event(SipTraced, 10)
        traced = here.of(SipTraced)
        assert {event.call for event in traced} == {reply.call}
        ladder = [(e.direction, e.text.split("\r\n")[0].removeprefix("SIP/2.0 ").split(" sip:")[0]) for e in traced]
        assert ladder == [
            ("out", "INVITE"), ("in", "401 Unauthorized"), ("out", "ACK"), ("out", "INVITE"), ("in", "100 Trying"),
            ("in", "180 Ringing"), ("in", "200 OK"), ("out", "ACK"), ("in", "BYE"), ("out", "200 OK"),
        ]  # fmt: skip
        assert any("Authorization: [removed]" in event.text for event in traced)
        assert not any("response=" in event.text for event in traced)


# -- media ----------------------------------------------------------------------------------------------------


async def test_a_wideband_offer_that_is_answered_narrow_is_heard_all_the_same(server):
    async with calling(server, answering, sip_codecs="G722,PCMU") as (here, far):
        worker = await here.worker()
        await originate(here)
        assert (await worker.offers.get()).state.rate_hz == 16000
        call = await far.call()
        assert (await here.event(CallAnswered)).codec == "PCMU"
        await far.speak(call, VOICE)
        await here.until(lambda: len(worker.frames) > 15)
        assert {len(frame.payload) for frame in worker.frames} == {640}


async def test_srtp_that_is_required_is_offered_and_nothing_else(server):
    def encrypted(far, call):
        far.answer(call, srtp="optional", srtp_key=bytes(30))

    async with calling(server, encrypted, sip_srtp="required") as (here, far):
        await here.worker()
        await originate(here)
        await here.event(CallAnswered)
        assert far.agreed.srtp is not None
        assert far.calls[0].offer.media[0].protocol == "RTP/SAVP"


async def test_early_media_is_told_and_not_taken_for_the_callees_words(server):
    sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 101\r\n"

    def announcing(far, call):
        far.act(far.agent.progress(call.dialog, sdp, far.loop.time()))

    async with calling(server, announcing) as (here, far):
        worker = await here.worker()
        await originate(here)
        rang = await here.event(CallRinging)
        assert (rang.status, rang.early_media) == (183, True)
        call = await far.call()
        far.answer(call)
        await here.event(CallAnswered)
        assert not any(any(frame.payload) for frame in worker.frames)


# -- limits of the organisation -----------------------------------------------------------------------------------


async def test_placed_calls_count_towards_the_organisations_limit(server):
    async with calling(server, ringing) as (here, far):
        await here.publish(AGENT, OrgConfig(name="default", max_calls=1))
        await here.until(lambda: here.config.organisation("default") is not None)
        await here.worker()
        assert (await originate(here)).ok
        await far.call()
        reply = await originate(here)
        assert reply.reason is Reason.AT_CAPACITY


# -- what trunks want -----------------------------------------------------------------------------------------


async def test_an_outbound_proxy_gets_the_call_and_the_account_stands_in_from(server, tmp_path):
    async with await FarEnd.open(answering) as far:
        file = tmp_path / "trunks.yaml"
        file.write_text(
            f"trunks: [{{name: p, server: provider.invalid, outbound_proxy: '127.0.0.1:{far.port}', from_user: '100', "
            "from_domain: customers.invalid, caller: '+4930555'}]"
        )
        async with world(server, sip_trunks_file=file) as here:
            await here.until(lambda: here.gateway.trunks.named("p").is_usable)
            await here.worker()
            await originate(here)
            invite = await far.request("INVITE")
            assert invite.startswith(f"INVITE sip:{NUMBER}@provider.invalid SIP/2.0\r\n")
            assert header(invite, "Route") == f"<sip:127.0.0.1:{far.port};lr>"
            assert "<sip:100@customers.invalid>" in header(invite, "From")
            assert header(invite, "P-Asserted-Identity") == "<sip:+4930555@customers.invalid>"
            await here.event(CallAnswered)
