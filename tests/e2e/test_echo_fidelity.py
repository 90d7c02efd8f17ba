"""What the caller says comes back through every part as G.711 coding once would leave it, and no worse.

Gateway, bus and worker are real processes; the softphone talks SIP and RTP to them. The agent is the scripted echo.
Audio is judged by the median over sections of one second: a stall of a busy machine may cost one of them a frame.
"""

import asyncio
from functools import cache
from statistics import median

import pytest
import pytest_asyncio

from libs.audio.compare import best_correlation, snr_db
from libs.audio.g711 import Law
from libs.audio.rtp import pack_header
from libs.audio.tone import tone
from libs.contracts.media import MediaStatistics
from libs.softphone.phone import CallOptions, PhoneCall, RtpStart, Softphone
from libs.softphone.ticker import shared_ticker
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, Platform, platform
from tests.support.speech import sections, the_speech

pytestmark = pytest.mark.asyncio(loop_scope="module")

PACKET_BYTES = 160
JUST_BELOW_THE_WRAP = RtpStart(sequence_number=65_536 - 100, timestamp=2**32 - 100 * 160, ssrc=0xC0FFEE)


@cache
def the_tone() -> bytes:
    """400 Hz at a level at which both laws code it with 49 dB; at most levels they reach 37 to 39."""
    return tone(400, 6000, 8000, -24.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running():
    async with platform(documents=[ECHO_AGENT, ECHO_ROUTE]) as started:
        yield started


def median_snr_db(sent: bytes, heard: bytes) -> float:
    return median(snr_db(section, around) for section, around in sections(sent, heard))


def coded_once(pcm: bytes, law: Law) -> bytes:
    return law.decode(law.encode(pcm))


def balances(media: MediaStatistics) -> bool:
    taken = media.rtp_received - media.rtp_late - media.rtp_duplicate
    return taken + media.up_concealed + media.up_filled == media.up_published + media.up_dropped


async def echo_of(
    running: Platform, phone: Softphone, pcm: bytes, law: Law, caller: str, options: CallOptions | None = None
) -> bytes:
    """Call, say it, hang up half a second later; what was heard."""
    call = await phone.call(running.sip_uri("echo"), from_user=caller, codecs=[law.encoding_name], options=options)
    await call.play(pcm).wait()
    await asyncio.sleep(0.5)
    await call.hang_up()
    return bytes(call.heard)


async def test_the_echo_of_a_tone_and_of_speech_reaches_the_codec_bound_in_both_laws(running, phone, feed):
    said = [(law, what, least) for law in Law for what, least in ((the_tone(), 40), (the_speech(), 36))]
    callers = [f"+49305550{number:02d}" for number in range(len(said))]
    calls = zip(said, callers, strict=True)
    heard = await asyncio.gather(*(echo_of(running, phone, pcm, law, caller) for (law, pcm, _), caller in calls))
    for (law, pcm, least_db), echo in zip(said, heard, strict=True):
        reached, bound = median_snr_db(pcm, echo), median_snr_db(pcm, coded_once(pcm, law))
        print(f"{law.name}: {reached:.2f} dB, bound {bound:.2f} dB")
        assert reached >= least_db, law
        assert reached == pytest.approx(bound, abs=0.2), law
    for caller in callers:
        assert balances((await feed.end_of(caller)).media)


async def test_sequence_number_and_timestamp_roll_over_unnoticed(running, phone, feed):
    caller, options = "+4930555100", CallOptions(rtp_start=JUST_BELOW_THE_WRAP)
    heard = await echo_of(running, phone, the_speech(), Law.PCMU, caller, options)
    bound = median_snr_db(the_speech(), coded_once(the_speech(), Law.PCMU))
    assert median_snr_db(the_speech(), heard) == pytest.approx(bound, abs=0.2)
    media = (await feed.end_of(caller)).media
    assert (media.rtp_lost, media.rtp_late, media.rtp_duplicate, media.up_concealed) == (0, 0, 0, 0)


class BadLine:
    """Sends speech as RTP packet by packet: every 20th is lost, one in 25 is overtaken by the next three (60 ms)."""

    def __init__(self, call: PhoneCall, pcm: bytes) -> None:
        coded = Law.PCMU.encode(pcm)
        self._packets = [coded[at : at + PACKET_BYTES] for at in range(0, len(coded), PACKET_BYTES)]
        self._call = call
        self._held: dict[int, bytes] = {}
        self._number = 0
        self.sent = self.lost = 0
        self.done = asyncio.Event()

    def tick(self, tick: int) -> None:
        number, self._number = self._number, self._number + 1
        if number < len(self._packets):
            packet = pack_header(0, 1000 + number, 160 * number, 7, number == 0) + self._packets[number]
            if number % 20 == 10:
                self.lost += 1
            elif number % 25 == 3:
                self._held[number + 3] = packet
            else:
                self._send(packet)
        if number in self._held:
            self._send(self._held.pop(number))
        if number >= len(self._packets) and not self._held:
            self.done.set()

    def _send(self, packet: bytes) -> None:
        self._call.send_rtp(packet)
        self.sent += 1


async def test_a_call_survives_lost_and_reordered_packets_and_counts_what_it_made_up(running, phone, feed):
    caller = "+4930555200"
    # the phone itself stays silent: what it sends comes from the bad line
    options = CallOptions(sends_silence=False)
    call = await phone.call(running.sip_uri("echo"), from_user=caller, options=options)
    line = BadLine(call, the_speech())
    shared_ticker().subscribe(line.tick)
    await line.done.wait()
    shared_ticker().unsubscribe(line.tick)
    await asyncio.sleep(0.5)
    assert call.ended is None
    await call.hang_up()
    pairs = sections(the_speech(), bytes(call.heard))
    assert median(best_correlation(section, around)[0] for section, around in pairs) >= 0.9
    media = (await feed.end_of(caller)).media
    assert (line.lost, media.rtp_received) == (15, line.sent)
    # a packet that a busy machine brought too late was made up as well
    assert media.rtp_lost == media.up_concealed == line.lost + media.rtp_late
    assert balances(media)
