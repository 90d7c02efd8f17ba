"""Whose call it is, who may call at all, and what those hear who get no agent."""

import asyncio
import base64

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts.config import Fallback, OrgConfig, RouteConfig
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, SipTraced
from libs.contracts.termination import Reason
from libs.sip.digest import Login
from libs.sip.events import Answered, Rejected
from libs.softphone.phone import CallOptions, CallRejected, Softphone
from services.sip_gateway.limiter import INVITES_OF_A_CALL, MAX_SOURCES, InviteScreen, SourceLimiter, refusal
from tests.support.fake_recorder import FakeRecorder
from tests.unit.sip_gateway.conftest import AGENT, ROUTE, world
from tests.unit.sip_gateway.far_end import FarEnd, ringing

LOCALHOST = "127.0.0.0/8"


@pytest.fixture
async def phone():
    async with await Softphone.open() as phone:
        yield phone


@pytest.fixture
async def far():
    async with await FarEnd.open(ringing) as far:
        yield far


def trunks(tmp_path, text: str) -> dict:
    file = tmp_path / "trunks.yaml"
    file.write_text(text)
    return {"sip_trunks_file": file}


# -- trunks ---------------------------------------------------------------------------------------------------


async def test_numbers_belong_to_the_country_of_the_trunk_and_routes_to_the_trunk(server, phone, tmp_path):
    text = f"trunks: [{{name: wien, sources: ['{LOCALHOST}'], country: AT}}]"
    austrian = RouteConfig(name="wien", match=("+431234567",), agent="bestellung", trunk="wien")
    async with world(server, AGENT, austrian, **trunks(tmp_path, text)) as here:
        worker = await here.worker()
        call = await phone.call(here.uri_of("01 234567".replace(" ", "")), from_user="0664 1234567")
        offer = await worker.offers.get()
        assert (offer.callee, offer.caller) == ("+431234567", "+436641234567")
        await call.hang_up()


async def test_a_trunk_that_asks_for_a_password_takes_only_who_knows_it(server, phone, far, tmp_path, monkeypatch):
    monkeypatch.setenv("PBX", "geheim")
    text = (
        f"trunks: [{{name: pbx, sources: ['{LOCALHOST}'], challenge: yes, challenge_username: haus, "
        "challenge_password: '${PBX}'}]"
    )
    async with world(server, **trunks(tmp_path, text)) as here:
        await here.worker()
        with pytest.raises(CallRejected) as caught:
            await phone.call(here.uri)
        assert caught.value.status == 401
        assert here.events == []  # no record: whoever knocks without a password costs nothing
        port = here.gateway.transport.port
        far.dial(port, credentials=lambda realm: Login("haus", "falsch"))
        assert (await far.event(Rejected)).status == 401
        await far.talk(port, credentials=lambda realm: Login("haus", "geheim"))
        await here.event(CallAnswered)


async def test_a_trunk_vouches_for_its_callers(server, far, tmp_path):
    text = f"trunks: [{{name: provider, server: 127.0.0.1, port: 9, sources: ['{LOCALHOST}']}}]"
    asserted = {"headers": (("P-Asserted-Identity", "<sip:+4940123456@provider.example>"),)}
    async with world(server, **trunks(tmp_path, text)) as here:
        worker = await here.worker()
        await far.talk(here.gateway.transport.port, **asserted)
        assert (await worker.offers.get()).caller == "+4940123456"
        withheld = {"headers": (*asserted["headers"], ("Privacy", "id"))}
        await far.talk(here.gateway.transport.port, **withheld)
        assert (await worker.offers.get()).caller == "anonymous"


async def test_who_belongs_to_no_trunk_asserts_nothing(server, far):
    async with world(server) as here:
        worker = await here.worker()
        await far.talk(
            here.gateway.transport.port, headers=(("P-Asserted-Identity", "<sip:+4940123456@provider.example>"),)
        )
        assert (await worker.offers.get()).caller == "+4930123456"


# -- floods of those who may call -------------------------------------------------------------------------------


async def test_more_calls_than_a_source_may_try_get_503_and_no_record(server, far):
    async with world(server, sip_invites_per_second=1) as here:
        await here.worker(capacity=50)
        port = here.gateway.transport.port
        for _ in range(4):
            far.dial(port)
        await far.until(lambda: sum(isinstance(event, Answered | Rejected) for event in far.events) == 4)
        assert [e.status for e in far.events if isinstance(e, Rejected)] == [503, 503]
        assert any("Retry-After: " in text for text in far.messages)
        assert here.gateway.transport.counters["invites_over_limit"] >= 2
        await here.event(CallAnswered, 2)
        assert len(here.of(CallOffered)) == 2
        assert {e.call for e in here.of(SipTraced)} == {e.call for e in here.of(CallOffered)}


def test_tokens_come_back_with_time():
    limiter = SourceLimiter(10)
    assert [limiter.allows("a", 0.0) for _ in range(22)] == [True] * 20 + [False] * 2
    assert limiter.allows("b", 0.0)
    assert not limiter.allows("a", 0.05)
    assert limiter.allows("a", 0.2)


INVITE = (
    b"INVITE sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1\r\n"
    b"From: <sip:b@127.0.0.1>;tag=1\r\n"
    b"To: <sip:a@127.0.0.1>\r\nCall-ID: one\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n\r\n"
)
SOURCE = ("127.0.0.1", 5070)


def test_repeats_of_a_call_that_was_let_in_need_no_token():
    screen = InviteScreen(SourceLimiter(0.5))
    assert [screen.lets_in(INVITE, SOURCE, 0.0) for _ in range(5)] == [True] * 5
    assert not screen.lets_in(INVITE.replace(b": one", b": two"), SOURCE, 0.0)


def test_one_call_id_over_and_over_is_no_way_round_the_limit():
    screen = InviteScreen(SourceLimiter(0.5))
    assert sum(screen.lets_in(INVITE, SOURCE, 0.0) for _ in range(1000)) == INVITES_OF_A_CALL


def test_a_refusal_is_a_503_that_repeats_get_again():
    first, destination = refusal(INVITE, SOURCE)
    assert first.startswith(b"SIP/2.0 503 ")
    assert b"Retry-After: 5\r\n" in first
    assert destination == SOURCE
    assert refusal(INVITE, SOURCE) == (first, destination)
    assert refusal(b"INVITE sip:a SIP/2.0\r\n\r\n", SOURCE) is None


async def test_a_flood_of_one_source_leaves_nothing_behind_and_others_are_served(server, phone):
    async with world(server, sip_invites_per_second=5) as here:
        await here.worker(capacity=50)
        transport = here.gateway.transport
        for number in range(3000):
            transport.datagram_received(INVITE.replace(b": one", b": flood-%d" % number), ("127.0.0.9", 5070))
        assert transport.counters["invites_over_limit"] >= 2980
        assert len(transport.core(transport.local("127.0.0.9"))._transactions) <= 20
        call = await phone.call(here.uri)
        await call.hang_up()


def test_no_number_of_sources_fills_the_memory():
    limiter = SourceLimiter(1)
    for number in range(2 * MAX_SOURCES):
        limiter.allows(str(number), 0.0)
    assert len(limiter._buckets) == MAX_SOURCES


# -- media ------------------------------------------------------------------------------------------------------


async def test_a_wideband_call_has_16_khz_on_the_bus(server, phone):
    async with world(server, sip_codecs="G722,PCMA") as here:
        worker = await here.worker()
        call = await phone.call(here.uri, codecs=("G722", "PCMU"))
        offer = await worker.offers.get()
        assert (offer.state.codec, offer.state.rate_hz) == ("G722", 16000)
        call.play(tone(440, 300, 16000))
        await here.until(lambda: len(worker.frames) > 10)
        assert {len(frame.payload) for frame in worker.frames} == {640}
        await call.hang_up()


async def test_srtp_is_answered_in_kind_and_refused_where_it_is_off(server, phone):
    async with world(server) as here:
        await here.worker()
        call = await phone.call(here.uri, options=CallOptions(srtp="required"))
        assert call.negotiated.srtp is not None
        await call.hang_up()
    async with world(server, sip_srtp="off") as here:
        await here.worker()
        with pytest.raises(CallRejected) as caught:
            await phone.call(here.uri, options=CallOptions(srtp="required"))
        assert caught.value.status == 488
        assert (await here.event(CallEnded)).termination.reason is Reason.NO_COMMON_CODEC


async def test_where_srtp_is_required_a_plain_call_is_refused(server, phone):
    async with world(server, sip_srtp="required") as here:
        await here.worker()
        with pytest.raises(CallRejected) as caught:
            await phone.call(here.uri)
        assert caught.value.status == 488


# -- those who get no agent ---------------------------------------------------------------------------------------


def recorded(pcm: bytes, kind: str = "message") -> Fallback:
    return Fallback(kind=kind, message_ulaw_b64=base64.b64encode(Law.PCMU.encode(pcm)).decode())


async def test_a_caller_of_an_unpublished_agent_hears_the_routes_message(server, phone):
    route = ROUTE.model_copy(update={"agent": "nobody", "fallback": recorded(tone(700, 400, 8000))})
    async with world(server, AGENT, route) as here:
        call = await phone.call(here.uri)
        assert (await call.wait_ended(5)).cause == "remote_bye"
        assert len(call.heard) > 6400
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.UNKNOWN_AGENT
        assert here.of(CallAnswered) == []
        await here.until(lambda: not here.gateway.exchange.owners)


async def test_a_caller_who_leaves_during_the_message_is_gone(server, phone):
    route = ROUTE.model_copy(update={"agent": "nobody", "fallback": recorded(tone(700, 8000, 8000))})
    async with world(server, AGENT, route) as here:
        call = await phone.call(here.uri)
        await call.hang_up()
        await here.until(lambda: here.gateway._ports.draining == 1)


@pytest.mark.parametrize("agent", ["nobody", "bestellung"], ids=["no agent", "no worker"])
async def test_a_caller_leaves_a_message_after_the_tone(server, phone, agent):
    route = ROUTE.model_copy(update={"agent": agent, "fallback": recorded(tone(700, 400, 8000), "voicemail")})
    async with world(server, AGENT, route) as here, FakeRecorder(server.url) as recorder:
        call = await phone.call(here.uri)
        await here.until(lambda: recorder.ticks)
        voice = tone(620, 600, 8000)
        await call.play(voice).wait()
        await call.hang_up()
        async with asyncio.timeout(3):
            await recorder.over.wait()
        assert best_correlation(voice[:4800], bytes(recorder.said))[0] > 0.95
        assert len(here.of(CallEnded)) == 1
        await here.until(lambda: not here.gateway.exchange.owners)


@pytest.mark.parametrize("agent", ["nobody", "bestellung"], ids=["no agent", "no worker"])
async def test_a_caller_is_sent_to_the_routes_other_number(server, far, agent):
    route = ROUTE.model_copy(update={"agent": agent, "fallback": Fallback(kind="transfer", number="+493099999")})
    async with world(server, AGENT, route) as here:
        far.dial(here.gateway.transport.port)
        rejected = await far.event(Rejected)
        assert (rejected.status, rejected.reason) == (302, "Moved Temporarily")
        assert rejected.headers["contact"] == ["<sip:+493099999@127.0.0.1>"]


async def test_an_organisation_at_its_limit_refuses_and_a_place_that_is_given_back_serves_the_next(server, phone):
    limited = OrgConfig(name="default", max_calls=1)
    async with world(server, AGENT, ROUTE, limited) as here:
        await here.worker()
        first = await phone.call(here.uri)
        with pytest.raises(CallRejected) as caught:
            await phone.call(here.uri)
        assert caught.value.status == 503
        assert (await here.event(CallEnded)).termination.reason is Reason.AT_CAPACITY
        await first.hang_up()
        await here.event(CallEnded, 2)
        await asyncio.sleep(0.1)
        again = await phone.call(here.uri)
        await again.hang_up()


# -- traces -------------------------------------------------------------------------------------------------------


async def test_every_message_of_a_call_is_traced_once(server, phone):
    async with world(server) as here:
        await here.worker()
        call = await phone.call(here.uri, options=CallOptions(srtp="required"))
        await call.hang_up()
        await here.event(SipTraced, 7)
        traced = here.of(SipTraced)
        assert [(e.direction, e.text.split("\r\n")[0].removeprefix("SIP/2.0 ").split(" sip:")[0]) for e in traced] == [
            ("in", "INVITE"), ("out", "100 Trying"), ("out", "180 Ringing"), ("out", "200 OK"), ("in", "ACK"),
            ("in", "BYE"), ("out", "200 OK"),
        ]  # fmt: skip
        assert {event.call for event in traced} == {here.of(CallOffered)[0].call}
        assert traced[0].local == f"127.0.0.1:{here.gateway.transport.port}"
        assert "inline:[removed]" in traced[0].text
        assert here.events.index(traced[0]) > here.events.index(here.of(CallOffered)[0])


async def traced_refusal(here, far, count, **dialled):
    """The first lines of a refused call's messages, and its end."""
    far.dial(here.gateway.transport.port, **dialled)
    await here.event(SipTraced, count)
    offered, ended = await here.event(CallOffered), await here.event(CallEnded)
    assert {event.call for event in here.of(SipTraced)} == {offered.call} == {ended.call}
    assert here.events.index(offered) < here.events.index(here.of(SipTraced)[0])
    lines = [event.text.split("\r\n")[0].removeprefix("SIP/2.0 ").split(" sip:")[0] for event in here.of(SipTraced)]
    return lines, ended.termination.reason


async def test_a_call_without_a_route_is_traced(server, far):
    async with world(server) as here:
        lines, reason = await traced_refusal(here, far, 4, user="niemand")
        assert (lines, reason) == (["INVITE", "100 Trying", "404 Not Found", "ACK"], Reason.NO_ROUTE)


async def test_a_call_without_a_common_codec_is_traced(server, far):
    async with world(server) as here:
        lines, reason = await traced_refusal(here, far, 3, codecs=("G722",))
        assert lines[0] == "INVITE"
        assert lines[-2:] == ["488 Not Acceptable Here", "ACK"]
        assert reason is Reason.NO_COMMON_CODEC


async def test_a_call_that_hears_only_a_message_is_traced_to_its_end(server, far):
    message = base64.b64encode(b"\xff" * 400).decode()
    route = ROUTE.model_copy(update={"agent": "nobody", "fallback": Fallback(kind="message", message_ulaw_b64=message)})
    async with world(server, AGENT, route) as here:
        lines, reason = await traced_refusal(here, far, 7)
        assert lines == ["INVITE", "100 Trying", "180 Ringing", "200 OK", "ACK", "BYE", "200 OK"]
        assert reason is Reason.UNKNOWN_AGENT


async def test_a_trace_can_be_switched_off(server, phone):
    async with world(server, sip_trace=False) as here:
        await here.worker()
        call = await phone.call(here.uri)
        await call.hang_up()
        await here.event(CallEnded)
        assert here.of(SipTraced) == []
