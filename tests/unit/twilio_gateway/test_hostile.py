"""What must not hurt: repeated and late requests, nonsense, peers that do not read, numbers out of all order."""

import asyncio

import aiohttp
import pytest

from libs.contracts.commands import HangUp, Transfer
from libs.contracts.config import OrgConfig
from libs.contracts.events import CallAnswered, CallEnded, CallOffered, CallTransfer
from libs.contracts.termination import Reason
from services.twilio_gateway import call as call_module, line as line_module, rest as rest_module
from services.twilio_gateway.downlink import Downlink
from tests.unit.twilio_gateway.conftest import AGENT, PUBLIC_URL, ROUTE, streaming, world
from tests.unit.twilio_gateway.test_calls import VOICE, is_heard
from tests.unit.twilio_gateway.test_transfers import TARGET, transferring


async def test_json_nested_without_end_is_malformed_and_the_stream_goes_on(server):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        await call.socket.send_str("[" * 60000)
        await call.says(VOICE)
        assert is_heard(b"".join(frame.payload for frame in worker.frames))
        assert call.streams == 1


@pytest.mark.parametrize("number", ["99999999999", 10**30, 3])
async def test_numbers_that_jump_or_begin_anew_do_not_make_the_agent_deaf(server, number):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        await call.says(VOICE)
        mad = {"event": "dtmf", "streamSid": call.stream_sid, "sequenceNumber": number, "dtmf": {"digit": "1"}}
        await call.send(mad, numbered=False)
        await asyncio.sleep(0.1)  # jitter: the gap is given up
        if number == 3:
            call._sequence = 1
        before = len(worker.frames)
        await call.says(bytes(3200) + VOICE)
        assert is_heard(b"".join(frame.payload for frame in worker.frames[before:]))
        assert next(iter(here.gateway._live.values())).call.statistics().rtp_lost < 1000


async def test_the_same_call_announced_at_once_is_one_call_though_admission_takes_its_time(server):
    org = OrgConfig(name="default", max_calls=5)
    async with world(server, AGENT, ROUTE, org) as here:
        await here.worker()
        call = here.twilio.incoming()
        url = f"{PUBLIC_URL}/voice"
        await asyncio.gather(*(here.twilio.post(url, call.form()) for _ in range(6)))
        await asyncio.sleep(0.3)
        assert len(here.of(CallOffered)) == 1


@pytest.mark.parametrize("path", ["/voice", "after"])
async def test_a_webhook_repeated_while_its_stream_runs_does_not_end_the_call(server, path, monkeypatch):
    monkeypatch.setattr(call_module, "STREAM_WITHIN_S", 0.2)
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        path = path if path == "/voice" else f"/calls/{offer.call}/after"
        status, _ = await here.twilio.post(PUBLIC_URL + path, call.form())
        assert status == 200
        await call.says(VOICE)
        assert not here.of(CallEnded)


@pytest.mark.parametrize("what", ["file", "charset", "signature", "multipart", "utf8"])
async def test_a_strangers_nonsense_gets_403_and_not_a_word(server, what):
    async with world(server) as here:
        url, kwargs = here.twilio.connect_url + "/voice", {"headers": {"X-Twilio-Signature": "x"}}
        if what == "file":
            form = aiohttp.FormData()
            form.add_field("a", b"abc", filename="a.txt")
            kwargs["data"] = form
        elif what == "charset":
            kwargs["data"] = b"a=b"
            kwargs["headers"]["Content-Type"] = "application/x-www-form-urlencoded; charset=klingon"
        elif what == "signature":
            kwargs["headers"]["X-Twilio-Signature"] = "ä" * 28
            kwargs["data"] = {"a": "b"}
        elif what == "multipart":
            kwargs["data"] = b"nothing of the kind"
            kwargs["headers"]["Content-Type"] = "multipart/form-data; boundary=x"
        else:
            kwargs["data"] = b"a=\xff\xfe"
            kwargs["headers"]["Content-Type"] = "application/x-www-form-urlencoded"
        async with here.twilio.session.post(url, **kwargs) as response:
            assert (response.status, await response.read()) == (403, b"")


def test_marks_that_never_come_back_are_not_kept_for_ever():
    line, now = Downlink("MZ1"), 0.0
    line.begin(now)
    for number in range(50 * 600):
        now += 0.02
        if line.may_send(now, now):
            line.frame(bytes(320), now)
        if number % 100 == 0:
            line.cut(now)
    assert len(line._pending) + len(line._cleared) < 300


async def test_a_twilio_that_does_not_read_leaves_no_connection_behind(server, monkeypatch):
    monkeypatch.setattr(call_module, "LINGER_S", 0.1)
    monkeypatch.setattr(line_module, "CLOSE_S", 0.5)
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await streaming(here, worker)
        transport = call.socket._response.connection.transport
        transport.pause_reading()
        live = next(iter(here.gateway._live.values()))
        line = live.call.line
        line.send(["x" * 60000] * 300)  # more than sockets hold
        await asyncio.sleep(0.1)
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await here.event(CallEnded)
        async with asyncio.timeout(4):
            await line.gone.wait()
        transport.resume_reading()


async def test_a_defect_in_reading_ends_that_call_in_order(server, monkeypatch):
    async with world(server) as here:
        worker = await here.worker()
        call, _ = await streaming(here, worker)
        live = next(iter(here.gateway._live.values()))
        monkeypatch.setattr(live.shell, "dtmf", lambda _: 1 / 0)
        await call.send({"event": "dtmf", "dtmf": {"digit": "1"}})
        assert (await here.event(CallEnded)).termination.reason is Reason.INTERNAL_ERROR
        await call.until(lambda: call.is_over)
        await here.until(lambda: not here.gateway.is_busy)


# -- the REST API ---------------------------------------------------------------------------------------------------


async def never_answers(call):
    await call.status("initiated")
    await call.status("ringing")


async def ringing_outbound(here):
    """A worker, and an outbound call that rings at Twilio."""
    worker = await here.worker()
    here.twilio.on_create = never_answers
    assert (await here.originate()).ok
    offer = await worker.offers.get()
    await here.until(lambda: len(here.twilio.calls) == 1)
    call = next(iter(here.twilio.calls.values()))
    await here.until(lambda: next(iter(here.gateway._live.values())).call.call_sid)
    return worker, offer, call


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_api_that_is_busy_for_a_moment_is_asked_again_to_hang_up(server, status, monkeypatch):
    monkeypatch.setattr(rest_module, "REPEAT_AFTER_S", (0.1, 0.2))
    async with world(server) as here:
        worker, offer, call = await ringing_outbound(here)
        here.twilio.api_error = (status, 20429, "Too many requests")
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await here.until(lambda: len(here.twilio.api_requests) == 2)
        here.twilio.api_error = None
        await call.until(lambda: call.is_over)
        await here.event(CallEnded)


async def test_a_callee_whose_call_could_not_be_taken_back_is_not_left_ringing(server, monkeypatch):
    monkeypatch.setattr(rest_module, "REPEAT_AFTER_S", ())
    async with world(server) as here:
        worker, offer, call = await ringing_outbound(here)
        here.twilio.api_error = (500, 0, "")
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await here.until(lambda: not here.gateway.is_busy)
        here.twilio.api_error = None
        await call.status("ringing")
        await call.until(lambda: call.is_over)
        assert len(here.of(CallEnded)) == 1


async def test_a_call_whose_placing_was_never_answered_goes_on_when_twilio_reports_it(server, monkeypatch):
    monkeypatch.setattr(rest_module, "TIMEOUT_S", 0.2)
    async with world(server) as here:
        worker = await here.worker()
        here.twilio.answers_after_s = 0.6
        here.twilio.on_create = never_answers
        assert (await here.originate()).ok
        offer = await worker.offers.get()
        await asyncio.sleep(0.5)
        (call,) = here.twilio.calls.values()
        assert not here.of(CallEnded)
        await call.answer()
        await here.event(CallAnswered)
        await worker.command(offer, HangUp(epoch=offer.epoch, reason=Reason.AGENT_HUNG_UP))
        await call.until(lambda: call.is_over)
        assert (await here.event(CallEnded)).termination.reason is Reason.AGENT_HUNG_UP


async def test_an_api_that_will_not_bring_the_caller_back_is_no_hang_up_of_the_caller(server, monkeypatch):
    monkeypatch.setattr(rest_module, "REPEAT_AFTER_S", (0.05,))
    async with world(server) as here:
        worker = await here.worker()
        await transferring(here, worker)
        here.twilio.api_error = (503, 0, "")
        live = next(iter(here.gateway._live.values()))
        live.call.cancel_transfer()
        assert (await here.event(CallEnded)).termination.reason is Reason.TRUNK_FAILED


# -- transfers --------------------------------------------------------------------------------------------------------


async def test_what_comes_late_of_an_earlier_transfer_says_nothing_about_the_present_one(server):
    async with world(server) as here:
        worker = await here.worker()
        call, offer = await transferring(here, worker)
        first = call.dial
        await call.dial_ends("busy")
        await call.until(lambda: call.streams == 2 and call.socket is not None)
        call.dial = None
        assert (await worker.command(offer, Transfer(epoch=offer.epoch, target=TARGET))).ok
        await call.until(lambda: call.dial is not None)
        await here.twilio.post(first[0].get("statusCallback"), {"CallSid": "CAchild", "CallStatus": "in-progress"})
        await here.twilio.post(first.get("action"), call.form(DialCallStatus="busy"))
        await asyncio.sleep(0.1)
        assert not here.of(CallEnded)
        assert [event.state for event in here.of(CallTransfer)] == ["requested", "failed", "requested"]
        await call.target_is("in-progress")
        await call.target_is("in-progress")
        assert (await here.event(CallEnded)).termination.reason is Reason.TRANSFERRED
