"""SIP calls through the gateway with a scripted worker on a real bus: who is answered, how, and what record is left."""

import asyncio
import base64
import re

import pytest

from libs.audio.compare import best_correlation
from libs.audio.g711 import Law
from libs.audio.tone import tone
from libs.contracts.agent import AgentConfig, Limits
from libs.contracts.commands import Failed, HangUp, Ready
from libs.contracts.config import Fallback, RouteConfig
from libs.contracts.events import CallAnswered, CallClaimed, CallEnded, CallOffered, DtmfReceived, SipTraced
from libs.contracts.termination import Reason, Result
from libs.sip.sdp import Direction
from libs.softphone.phone import CallOptions, CallRejected, Softphone
from tests.support.fake_worker import accept, accept_unready, never, refuse
from tests.unit.sip_gateway.conftest import AGENT, ROUTE, world

VOICE = tone(440, 400, 8000)


@pytest.fixture
async def phone():
    async with await Softphone.open() as phone:
        yield phone


async def speak(worker, offer, pcm: bytes = VOICE, first_seq: int = 0) -> None:
    """As a worker does: at most 200 ms ahead."""
    for number in range(len(pcm) // 320):
        worker.says(offer, first_seq + number, pcm[number * 320 : (number + 1) * 320])
        if number >= 8:
            await asyncio.sleep(0.02)


def is_heard(pcm: bytes) -> bool:
    """A quarter of the voice came without a gap; a busy machine may leave one somewhere."""
    return best_correlation(VOICE[: len(VOICE) // 4], pcm)[0] > 0.98


# -- set-up -----------------------------------------------------------------------------------------------


async def test_a_call_rings_and_is_answered_only_when_the_worker_is_ready(server, phone):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept_unready)
        call = await phone.dial(here.uri)
        assert await call.wait_ringing() == 180
        offer = await worker.offers.get()
        await here.event(CallClaimed)
        await asyncio.sleep(0.1)
        assert not call.is_answered
        assert (await worker.command(offer, Ready(epoch=offer.epoch))).ok
        await call.wait_answered()
        await call.hang_up()
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.CALLER_HUNG_UP
        assert ended.termination.result is Result.SUCCESS
        assert [type(event).__name__ for event in here.events if not isinstance(event, SipTraced)] == [
            "CallOffered", "CallClaimed", "CallAnswered", "CallEnded",
        ]  # fmt: skip


async def test_the_offer_tells_who_calls_whom_in_e164(server, phone):
    async with world(server) as here:
        worker = await here.worker()
        call = await phone.call(here.uri_of("030%201234567"), from_user="0171 2345678", codecs=("PCMA",))
        offer = await worker.offers.get()
        assert (offer.caller, offer.callee) == ("+491712345678", "+49301234567")
        assert (offer.state.codec, offer.state.rate_hz, offer.agent) == ("PCMA", 8000, AGENT)
        await call.hang_up()


async def test_audio_passes_both_ways(server, phone):
    async with world(server) as here:
        worker = await here.worker()
        call = await phone.call(here.uri)
        offer = await worker.offers.get()
        await speak(worker, offer)
        await call.play(VOICE).wait()
        await asyncio.sleep(0.1)
        assert is_heard(bytes(call.heard))
        up = b"".join(frame.payload for frame in worker.frames)
        assert is_heard(up)
        assert max(frame.played for frame in worker.frames) == len(VOICE) // 2
        await call.hang_up()
        media = (await here.event(CallEnded)).media
        assert media.rtp_sent > 15
        assert media.dn_received == len(VOICE) // 320
        assert media.rtp_lost == media.dn_trimmed == 0


# -- refusals: each leaves its record -----------------------------------------------------------------------


LOST_AGENT = RouteConfig(name="lost", match=("lost",), agent="nobody")


async def refusal(here, phone, user="bestellung", **named) -> CallRejected:
    with pytest.raises(CallRejected) as caught:
        await phone.call(here.uri_of(user), timeout_s=6, **named)
    return caught.value


@pytest.mark.parametrize(
    ("user", "status", "reason"),
    [("unbekannt", 404, Reason.NO_ROUTE), ("lost", 480, Reason.UNKNOWN_AGENT), ("bestellung", 503, Reason.NO_WORKER)],
)
async def test_a_call_that_nobody_can_take_gets_its_status_and_a_record(server, phone, user, status, reason):
    async with world(server, AGENT, ROUTE, LOST_AGENT) as here:
        assert (await refusal(here, phone, user)).status == status
        ended = await here.event(CallEnded)
        assert ended.termination.reason is reason
        assert ended.termination.result is Result.SERVER
        offered = here.of(CallOffered)
        assert [(event.call, event.callee) for event in offered] == [(ended.call, user)]
        assert here.of(CallAnswered) == []


async def test_no_worker_says_when_to_try_again(server, phone):
    async with world(server) as here:
        seen = []
        plain = phone.datagram_received
        phone.datagram_received = lambda data, addr: (seen.append(data), plain(data, addr))
        await refusal(here, phone)
        (final,) = [data for data in seen if data.startswith(b"SIP/2.0 503")]
        assert b"Retry-After: " in final


RAW_INVITE = (
    "INVITE sip:bestellung@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{n};rport\r\n"
    "From: <sip:anna@127.0.0.1>;tag=1\r\nTo: <sip:bestellung@127.0.0.1>\r\nCall-ID: raw-{n}\r\nCSeq: 1 INVITE\r\n"
    "Max-Forwards: 70\r\nContact: <sip:anna@127.0.0.1:{port}>\r\nContent-Type: application/sdp\r\n"
    "Content-Length: {length}\r\n\r\n{sdp}"
)
SDP = (
    "v=0\r\no=a 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 18\r\na=rtpmap:18 G729/8000\r\n"
)


class Raw(asyncio.DatagramProtocol):
    """A peer that sends what a softphone never would."""

    def __init__(self, here) -> None:
        self.here = here
        self.got: asyncio.Queue[str] = asyncio.Queue()
        self.number = 0

    def datagram_received(self, data, addr) -> None:
        self.got.put_nowait(data.decode())

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self.port = self.transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_) -> None:
        self.transport.close()

    def send(self, text: str) -> None:
        self.transport.sendto(text.encode(), ("127.0.0.1", self.here.gateway.transport.port))

    def invite(self, sdp: str) -> str:
        self.number += 1
        text = RAW_INVITE.format(port=self.port, n=self.number, sdp=sdp, length=len(sdp))
        if not sdp:
            text = text.replace("Content-Type: application/sdp\r\n", "")
        self.send(text)
        return text

    async def response(self, status: int) -> str:
        async with asyncio.timeout(5):
            while True:
                text = await self.got.get()
                if text.startswith(f"SIP/2.0 {status}"):
                    return text

    def in_dialog(self, method: str, response: str, cseq: int, sdp: str = "") -> None:
        header = dict(line.split(": ", 1) for line in response.split("\r\n\r\n", maxsplit=1)[0].split("\r\n")[1:])
        target = re.search(r"<([^>]*)>", header["Contact"])[1]
        body = f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}" if sdp else "\r\n"
        self.send(
            f"{method} {target} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{method}{cseq};rport\r\n"
            f"From: {header['From']}\r\nTo: {header['To']}\r\nCall-ID: {header['Call-ID']}\r\nCSeq: {cseq} {method}\r\n"
            f"Contact: <sip:anna@127.0.0.1:{self.port}>\r\nMax-Forwards: 70\r\n{body}"
        )


@pytest.mark.parametrize(
    ("sdp", "status", "reason"),
    [
        (SDP, 488, Reason.NO_COMMON_CODEC),
        ("v=0\r\no=a 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 RTP/AVP 96\r\n", 488, Reason.NO_COMMON_CODEC),
        ("this is no SDP", 400, Reason.MALFORMED_OFFER),
        (SDP.replace("18 G729", "0 PCMU").replace("AVP 18", "AVP 0").replace("c=IN IP4 127.0.0.1\r\n", ""), 400,
         Reason.MALFORMED_OFFER),
    ],
    ids=["G.729 only", "no audio", "no SDP", "no address"],
)  # fmt: skip
async def test_an_offer_that_cannot_be_served_is_refused_and_recorded(server, phone, sdp, status, reason):
    async with world(server) as here, Raw(here) as raw:
        worker = await here.worker()
        raw.invite(sdp)
        await raw.response(status)
        ended = await here.event(CallEnded)
        assert ended.termination.reason is reason
        assert ended.termination.detail
        assert [(event.caller, event.callee, event.route) for event in here.of(CallOffered)] == [
            ("anna", "bestellung", "bestellung")
        ]
        assert worker.offers.empty()
        call = await phone.call(here.uri)  # and the next call is served
        await call.hang_up()


async def test_a_full_gateway_says_503(server, phone):
    async with world(server, max_calls=1) as here:
        await here.worker()
        first = await phone.call(here.uri)
        assert (await refusal(here, phone)).status == 503
        assert (await here.event(CallEnded)).termination.reason is Reason.AT_CAPACITY
        await first.hang_up()


async def test_used_up_rtp_ports_are_a_full_gateway(server, phone):
    async with world(server, rtp_ports=(40_101, 40_103)) as here:
        await here.worker()
        first = await phone.call(here.uri)
        assert (await refusal(here, phone)).status == 503
        assert (await here.event(CallEnded)).termination.reason is Reason.AT_CAPACITY
        await first.hang_up()


# -- workers that do not serve ------------------------------------------------------------------------------


@pytest.mark.parametrize("unwilling", [refuse, never], ids=["refuses", "is silent"])
async def test_the_next_worker_is_asked_when_one(server, phone, unwilling):
    async with world(server) as here:
        first = await here.worker(on_offer=unwilling, capacity=50)
        second = await here.worker()
        call = await phone.call(here.uri)
        assert [first.offers.qsize(), second.offers.qsize()] == [1, 1]
        assert (await second.offers.get()).epoch == 2
        await call.hang_up()


async def test_a_worker_that_never_gets_ready_is_released_and_its_reason_ends_the_call(server, phone):
    hasty = AGENT.model_copy(update={"limits": Limits(ready_timeout_s=0.2)})
    async with world(server, hasty, ROUTE) as here:
        worker = await here.worker(on_offer=accept_unready)
        assert (await refusal(here, phone)).status == 503
        release = await asyncio.wait_for(worker.releases.get(), 2)
        assert release.epoch == 1
        assert (await here.event(CallEnded)).termination.reason is Reason.NOT_READY


async def test_a_worker_that_fails_to_reach_its_model_gives_the_calls_end_its_reason(server, phone):
    def fail(worker, offer):
        failed = Failed(epoch=offer.epoch, reason=Reason.MODEL_UNREACHABLE, detail="no route to host")
        worker.later(worker.command(offer, failed))
        return accept_unready(worker, offer)

    async with world(server) as here:
        await here.worker(on_offer=fail)
        assert (await refusal(here, phone)).status == 503
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.MODEL_UNREACHABLE
        assert ended.termination.detail == "no route to host"


async def test_an_acceptance_that_comes_too_late_is_released(server, phone):
    async with world(server) as here:
        worker = await here.worker(late_s=0.6)  # later than the patient offers that follow the first one
        assert (await refusal(here, phone)).status == 503
        released = await asyncio.wait_for(worker.releases.get(), 2)
        assert released.epoch == 1
        assert (await here.event(CallEnded)).termination.reason is Reason.NO_WORKER


async def test_the_routes_message_is_played_once_when_no_agent_comes(server, phone):
    message = tone(700, 600, 8000) + tone(350, 200, 8000)
    fallback = Fallback(kind="message", message_ulaw_b64=base64.b64encode(Law.PCMU.encode(message)).decode())
    async with world(server, AGENT, ROUTE.model_copy(update={"fallback": fallback})) as here:
        call = await phone.call(here.uri)
        end = await call.wait_ended(5)
        assert end.cause == "remote_bye"
        correlation, at = best_correlation(message, bytes(call.heard))
        assert correlation > 0.9
        after = bytes(call.heard)[2 * (at + len(message) // 2) :]
        assert best_correlation(message[:1600], after)[0] < 0.3  # its beginning does not come again
        assert (await here.event(CallEnded)).termination.reason is Reason.NO_WORKER
        assert len(here.of(CallEnded)) == 1


# -- cancel, repeats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [never, accept_unready], ids=["during the offer", "before it is ready"])
async def test_cancel_gives_487_and_releases_the_worker(server, phone, script):
    async with world(server) as here:
        worker = await here.worker(on_offer=script)
        call = await phone.dial(here.uri)
        await call.wait_ringing()
        await asyncio.wait_for(worker.offers.get(), 2)
        end = await call.cancel()
        assert end.status == 487
        release = await asyncio.wait_for(worker.releases.get(), 2)
        assert release.epoch == 1
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_CANCELLED
        await here.until(lambda: here.gateway._ports.draining == 1)


async def test_the_same_invite_three_times_is_one_call(server):
    async with world(server) as here, Raw(here) as raw:
        worker = await here.worker(on_offer=accept_unready)
        text = raw.invite(SDP.replace("18 G729", "0 PCMU").replace("AVP 18", "AVP 0"))
        raw.send(text)
        await raw.response(180)
        raw.send(text)
        await raw.response(180)
        offer = await worker.offers.get()
        await worker.command(offer, Ready(epoch=offer.epoch))
        ok = await raw.response(200)
        raw.in_dialog("ACK", ok, 1)
        raw.in_dialog("BYE", ok, 2)
        await raw.response(200)
        await here.event(CallEnded)
        assert len(here.of(CallOffered)) == 1
        assert worker.offers.empty()


# -- in the call --------------------------------------------------------------------------------------------


async def test_the_worker_hangs_up(server, phone):
    async with world(server) as here:
        worker = await here.worker()
        call = await phone.call(here.uri)
        offer = await worker.offers.get()
        reply = await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        assert reply.ok
        end = await call.wait_ended(5)
        assert (end.cause, "agent_hung_up" in end.reason) == ("remote_bye", True)
        assert (await here.event(CallEnded)).termination.reason is Reason.AGENT_HUNG_UP


async def test_hold_is_mirrored_and_the_uplink_runs_on(server, phone):
    async with world(server) as here:
        worker = await here.worker()
        call = await phone.call(here.uri)
        assert await call.set_direction(Direction.SENDONLY) is Direction.SENDONLY
        await here.until(lambda: not worker.told.empty())
        assert b'"held":true' in worker.told.get_nowait()
        assert await call.set_direction(Direction.INACTIVE) is Direction.INACTIVE
        heard, up = call.stats.packets, len(worker.frames)
        await asyncio.sleep(0.4)
        assert call.stats.packets - heard <= 1
        assert len(worker.frames) - up >= 15  # 50 a second, silence included (R2)
        assert await call.set_direction(Direction.SENDRECV) is Direction.SENDRECV
        await here.until(lambda: not worker.told.empty())
        assert b'"held":false' in worker.told.get_nowait()
        await speak(worker, worker.offers.get_nowait())
        await asyncio.sleep(0.3)  # what was ahead is played
        assert is_heard(bytes(call.heard))
        await call.hang_up()


async def test_a_late_offer_is_settled_by_the_ack(server):
    async with world(server) as here, Raw(here) as raw:
        worker = await here.worker()
        raw.invite("")
        ok = await raw.response(200)
        assert "m=audio" in ok
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        class Media(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                heard.put_nowait(data)

        transport, _ = await loop.create_datagram_endpoint(Media, ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        answer = SDP.replace("40000", str(port)).replace("18 G729", "8 PCMA").replace("AVP 18", "AVP 8")
        raw.in_dialog("ACK", ok, 1, answer)
        packet = await asyncio.wait_for(heard.get(), 2)
        assert packet[1] & 0x7F == 8
        assert (await worker.offers.get()).state.codec == "PCMA"
        raw.in_dialog("BYE", ok, 2)
        assert (await here.event(CallEnded)).termination.reason is Reason.CALLER_HUNG_UP
        transport.close()


async def test_a_late_offer_whose_answer_fits_nothing_ends_the_call_at_once(server):
    async with world(server) as here, Raw(here) as raw:
        worker = await here.worker()
        raw.invite("")
        ok = await raw.response(200)
        raw.in_dialog("ACK", ok, 1, SDP)
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.NO_COMMON_CODEC
        assert (await asyncio.wait_for(worker.releases.get(), 2)).epoch == 1


async def test_digits_reach_the_worker_and_the_record(server, phone):
    async with world(server) as here:
        await here.worker()
        call = await phone.call(here.uri)
        await call.send_dtmf("42#")
        await here.event(DtmfReceived, 3)
        assert [event.digit for event in here.of(DtmfReceived)] == ["4", "2", "#"]
        await call.hang_up()


async def test_a_caller_who_vanishes_without_bye_is_noticed(server, phone):
    async with world(server, rtp_timeout_s=1.1) as here:
        worker = await here.worker()
        call = await phone.call(here.uri, options=CallOptions(sends_silence=False))
        ended = await here.event(CallEnded)
        assert ended.termination.reason is Reason.RTP_TIMEOUT
        assert (await asyncio.wait_for(worker.releases.get(), 2)).epoch == 1
        assert (await call.wait_ended(2)).cause == "remote_bye"


async def test_a_call_whose_leg_cannot_be_ended_costs_no_other(server, phone):
    async with world(server, rtp_timeout_s=1.1) as here:
        worker = await here.worker()
        await phone.call(here.uri, options=CallOptions(sends_silence=False))
        first = (await worker.offers.get()).call
        (live,) = here.gateway._live.values()
        live.shell.leg.end = lambda why, now: 1 / 0
        await phone.call(here.uri, options=CallOptions(sends_silence=False))
        await here.until(lambda: not here.gateway._live)
        assert here.gateway.counters["defects"] == 1
        await here.until(lambda: any(event.call != first for event in here.of(CallEnded)))
        (other,) = [event for event in here.of(CallEnded) if event.call != first]
        assert other.termination.reason is Reason.RTP_TIMEOUT


async def test_a_call_on_hold_may_be_silent_for_longer(server, phone):
    async with world(server, rtp_timeout_s=1.1) as here:
        await here.worker()
        call = await phone.call(here.uri)
        await call.set_direction(Direction.INACTIVE)
        await asyncio.sleep(2.5)
        await call.set_direction(Direction.SENDRECV)
        await asyncio.sleep(1.2)
        assert call.ended is None
        await call.hang_up()


# -- the process --------------------------------------------------------------------------------------------


async def test_a_drain_refuses_new_calls_and_lets_present_ones_finish(server, phone):
    async with world(server) as here:
        await here.worker()
        call = await phone.call(here.uri)
        draining = asyncio.create_task(here.legs.drain(5))
        await here.until(lambda: here.legs.draining)
        assert (await refusal(here, phone)).status == 503
        assert (await here.event(CallEnded)).termination.reason is Reason.DRAINING
        assert not draining.done()
        await call.hang_up()
        await asyncio.wait_for(draining, 2)


async def test_a_drain_ends_what_does_not_finish_in_time(server, phone):
    async with world(server) as here:
        await here.worker()
        call = await phone.call(here.uri)
        await here.legs.drain(0.1)
        assert (await call.wait_ended(2)).cause == "remote_bye"
        assert (await here.event(CallEnded)).termination.reason is Reason.DRAINING


async def test_a_defect_in_one_calls_media_ends_that_call_alone(server, phone):
    async with world(server) as here:
        worker = await here.worker(on_offer=accept)
        broken, healthy = await phone.call(here.uri), await phone.call(here.uri)
        assert worker.offers.qsize() == 2

        def fail(now):
            raise ZeroDivisionError

        next(iter(here.gateway._live.values())).call.rtp.tick = fail
        assert (await broken.wait_ended(3)).cause == "remote_bye"
        assert (await here.event(CallEnded)).termination.reason is Reason.INTERNAL_ERROR
        before = healthy.stats.packets
        await asyncio.sleep(0.2)
        assert healthy.stats.packets - before > 5
        await healthy.hang_up()


async def test_an_agent_published_later_is_served_without_a_restart(server, phone):
    async with world(server) as here:
        await here.worker()
        assert (await refusal(here, phone, "neu")).status == 404
        await here.publish(
            RouteConfig(name="neu", match=("neu",), agent="neu"), AgentConfig(name="neu", backend="scripted")
        )
        call = await phone.call(here.uri_of("neu"))
        await call.hang_up()
