import asyncio

import pytest

from libs.audio.compare import best_correlation
from libs.audio.rtp import RtpPacket
from libs.audio.tone import silence, tone
from libs.sip.events import Cancelled, Ended
from libs.sip.sdp import Direction
from libs.softphone.call import CallOptions, CallOver, CallRejected
from libs.softphone.phone import Softphone
from libs.softphone.talker import RtpStart

from .answering import AnsweringSide


@pytest.fixture
async def side():
    async with await AnsweringSide.open() as answering:
        yield answering


@pytest.fixture
async def phone():
    async with await Softphone.open() as opened:
        yield opened


async def test_what_is_said_comes_back_from_an_echo(side, phone):
    call = await phone.call(side.uri)
    said = tone(440, 300, 8000) + silence(60, 8000)
    speaking = call.play(said)
    heard = await call.wait_for_speech(timeout_s=2)
    await speaking.wait()
    await call.wait_for_silence(100, timeout_s=2)
    end = await call.hang_up()
    assert end.cause == "local_bye"
    assert (await side.until(Ended)).cause.value == "remote_bye"
    assert best_correlation(said, bytes(call.heard))[0] > 0.95
    assert speaking.started_at is not None
    assert heard.arrived_at > speaking.started_at
    assert call.stats.lost == call.stats.out_of_order == call.stats.duplicates == 0
    assert call.stats.packets == len(call.heard_positions)
    assert call.ringing_status == 180


async def test_the_stream_is_continuous_paced_and_rolls_over(side, phone):
    start = RtpStart(sequence_number=65530, timestamp=2**32 - 480, ssrc=77)
    call = await phone.call(side.uri, options=CallOptions(rtp_start=start))
    await call.play(silence(400, 8000)).wait()
    await call.hang_up()
    packets = side.leg.packets
    assert len(packets) >= 18
    assert [p.sequence_number for p in packets[:8]] == [65530, 65531, 65532, 65533, 65534, 65535, 0, 1]
    assert [p.timestamp for p in packets[:5]] == [2**32 - 480, 2**32 - 320, 2**32 - 160, 0, 160]
    assert {p.ssrc for p in packets} == {77}
    assert [p.marker for p in packets[:3]] == [True, False, False]
    assert call.stats.lost == 0
    assert len(call.heard) == 2 * 160 * call.stats.packets
    assert sum(call.stats.interarrival_ms) / len(call.stats.interarrival_ms) == pytest.approx(20, abs=2)


async def test_digits_arrive_as_telephone_events(side, phone):
    call = await phone.call(side.uri)
    await call.send_dtmf("4*#", duration_ms=60, gap_ms=60)
    await call.hang_up()
    assert side.leg.digits == ["4", "*", "#"]


async def test_a_rejection_is_raised_with_status_and_reason(side, phone):
    side.rejects = 486
    with pytest.raises(CallRejected) as caught:
        await phone.call(side.uri)
    assert (caught.value.status, caught.value.reason) == (486, "Besetzt")
    assert not phone.calls


async def test_a_call_that_is_not_answered_is_cancelled(side, phone):
    side.answers = False
    with pytest.raises(CallRejected) as caught:
        await phone.call(side.uri, timeout_s=0.1)
    assert caught.value.status == 408
    await side.until(Cancelled)


async def test_a_ringing_call_can_be_cancelled(side, phone):
    side.answers = False
    call = await phone.dial(side.uri)
    assert await call.wait_ringing() == 180
    with pytest.raises(CallOver):
        call.play(b"")
    end = await call.cancel()
    assert (end.cause, end.status) == ("local_cancel", 487)
    with pytest.raises(CallRejected):
        await call.wait_answered()


async def test_the_far_end_hangs_up_while_somebody_listens(side, phone):
    call = await phone.call(side.uri)
    listening = asyncio.ensure_future(call.wait_for_speech(timeout_s=5))
    dialog = next(iter(side.legs))
    side.act(side.agent.bye(dialog, side.loop.time(), "Q.850;cause=16"))
    end = await call.wait_ended(2)
    assert (end.cause, end.reason) == ("remote_bye", "Q.850;cause=16")
    with pytest.raises(CallOver):
        await listening
    with pytest.raises(CallOver):
        call.play(b"\0\0")


async def test_hold_and_resume(side, phone):
    call = await phone.call(side.uri)
    assert await call.set_direction(Direction.INACTIVE) is Direction.INACTIVE
    before = len(side.leg.packets)
    await asyncio.sleep(0.06)
    assert len(side.leg.packets) - before <= 1
    assert await call.set_direction(Direction.SENDRECV) is Direction.SENDRECV
    call.play(tone(440, 200, 8000))
    await call.wait_for_speech(timeout_s=2)


async def test_speech_and_silence_time_out_when_nothing_comes(side, phone):
    call = await phone.call(side.uri)
    with pytest.raises(TimeoutError):
        await call.wait_for_speech(timeout_s=0.1)
    call.play(tone(440, 400, 8000))
    await call.wait_for_speech(timeout_s=2)
    with pytest.raises(TimeoutError):
        await call.wait_for_silence(300, timeout_s=0.15)


async def test_silence_is_heard_when_packets_stop(side, phone):
    call = await phone.call(side.uri, options=CallOptions(sends_silence=False))
    call.play(tone(440, 100, 8000))
    await call.wait_for_speech(timeout_s=2)
    await call.wait_for_silence(100, timeout_s=1)
    assert len(side.leg.packets) == 5


async def test_the_raw_hook_sees_every_packet_and_nothing_is_kept(side, phone):
    seen = []
    options = CallOptions(keeps_audio=False, on_packet=lambda data, arrived_at: seen.append((data, arrived_at)))
    call = await phone.call(side.uri, options=options)
    await call.play(silence(100, 8000)).wait()
    call.send_rtp(RtpPacket(0, 1, 2, 3, b"x").serialize())
    await call.hang_up()
    assert len(seen) >= 4
    assert not call.heard


async def test_stopped_speech_goes_no_further(side, phone):
    call = await phone.call(side.uri)
    handle = call.play(tone(440, 5000, 8000))
    await handle.started.wait()
    handle.stop()
    async with asyncio.timeout(1):
        await handle.wait()


async def test_twenty_calls_at_once_share_one_phone(side, phone):
    calls = await asyncio.gather(*(phone.call(side.uri) for _ in range(20)))
    await asyncio.gather(*(call.play(tone(440, 200, 8000)).wait() for call in calls))
    await asyncio.gather(*(call.hang_up() for call in calls))
    assert all(call.stats.packets >= 8 for call in calls)
    assert len(side.legs) == 20


async def test_closing_the_phone_hangs_up():
    async with await AnsweringSide.open() as side:
        async with await Softphone.open() as phone:
            call = await phone.call(side.uri)
        assert call.ended is not None
        await side.until(Ended)
        with pytest.raises(ValueError, match="no host"):
            await phone.dial("tel:+4930")


async def test_it_works_under_uvloop_too():
    import uvloop

    async def one_call() -> float:
        async with await AnsweringSide.open() as side, await Softphone.open() as phone:
            call = await phone.call(side.uri)
            said = tone(440, 200, 8000)
            await call.play(said).wait()
            await call.wait_for_silence(60)
            await call.hang_up()
            return best_correlation(said, bytes(call.heard))[0]

    def run() -> float:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(one_call())

    assert await asyncio.to_thread(run) > 0.95
