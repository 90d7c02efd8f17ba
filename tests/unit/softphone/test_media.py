"""The softphone's media against the gateway's, on real sockets: codecs, encryption, RTCP both ways."""

import asyncio
from dataclasses import replace

import pytest

from libs.audio import rtcp
from libs.audio.compare import best_correlation
from libs.audio.tone import tone
from libs.call_leg.audio import CallAudio
from libs.contracts.frame import AudioFrame, pack, unpack
from libs.sip.sdes import MASTER_BYTES
from libs.sip.sdp import Direction, LocalMedia, negotiate
from libs.softphone.call import CallOptions, CallOver
from libs.softphone.phone import CallRejected, Softphone
from services.sip_gateway.rtp_ports import PortPool
from services.sip_gateway.rtp_session import MediaFormat, RtpSession, RtpStart
from services.sip_gateway.ticker import Ticker
from tests.support.waiting import until
from tests.unit.softphone.answering import AnsweringSide


class EchoLeg:
    """Media of one answered call: what the caller says comes back as the agent's."""

    def __init__(self, offer, ticker: Ticker, local: LocalMedia) -> None:
        self.sock = PortPool(None).acquire("127.0.0.1")
        self.agreed = negotiate(offer, replace(local, port=self.sock.getsockname()[1]))
        media = MediaFormat.of(self.agreed)
        self.audio = CallAudio("default", "gw", "call", self._echo, rate_hz=media.codec.rate_hz)
        remote = (self.agreed.remote_host, self.agreed.remote_port)
        self.rtp = RtpSession(self.sock, media, remote, self.audio, RtpStart(0xCA11, 65_530, 2**32 - 500))
        self.digits: list[str] = []
        self.rtp.on_digit = self.digits.append
        self.ticker = ticker
        now = asyncio.get_running_loop().time()
        self.audio.start("wk", 1, "continuous", now)
        ticker.add(self.rtp)
        self.rtp.answered(now)
        self.transport = self

    def _echo(self, subject: str, payload: bytes) -> bool:
        frame: AudioFrame = unpack(payload)
        self.audio.heard_from_worker("wk", pack(frame._replace(flags=0)))
        return True

    def close(self) -> None:
        self.ticker.remove(self.rtp)
        self.sock.close()


class Gateway(AnsweringSide):
    local = LocalMedia("127.0.0.1", 0)
    ticker: Ticker

    async def answer(self, call) -> None:
        leg = self.legs[call.dialog] = EchoLeg(call.offer, self.ticker, self.local)
        self.act(self.agent.answer(call.dialog, leg.agreed.answer.serialize(), self.loop.time()))


@pytest.fixture
async def gateway():
    gateway = await Gateway.open()
    gateway.ticker = Ticker(lambda *_: None, lambda _: None)
    async with gateway:
        yield gateway
    gateway.ticker.close()


@pytest.fixture
async def phone():
    async with await Softphone.open() as phone:
        yield phone


@pytest.fixture
def brisk(monkeypatch):
    monkeypatch.setattr(rtcp, "INTERVAL_S", 0.1)


def local(**named) -> LocalMedia:
    return LocalMedia("127.0.0.1", 0, **named)


async def echoes(call) -> bool:
    pcm = tone(440, 300, call.rate_hz)
    await call.play(pcm).wait()
    await asyncio.sleep(0.3)
    return best_correlation(pcm[: 2 * call.rate_hz // 5], bytes(call.heard))[0] > 0.9


async def test_g722_is_heard_and_said_at_16_khz(gateway, phone):
    gateway.local = local(codecs=("PCMU", "G722"))
    gateway.agent._config = replace(gateway.agent._config, codecs=("PCMU", "G722"))
    call = await phone.call(gateway.uri, codecs=("G722", "PCMU"))
    assert call.rate_hz == 16_000
    assert await echoes(call)
    await call.send_dtmf("5")
    assert gateway.leg.digits == ["5"]


@pytest.mark.parametrize("policy", ["optional", "required"])
async def test_an_encrypted_call_is_heard_both_ways_across_a_roll_over(gateway, phone, brisk, policy):
    gateway.local = local(srtp=policy, srtp_key=bytes(range(MASTER_BYTES)))
    call = await phone.call(gateway.uri, options=CallOptions(srtp="required"))
    assert call.negotiated.srtp is not None
    assert await echoes(call)
    await until(lambda: gateway.leg.rtp.statistics().rtcp_received > 1 and call.rtcp.remote.lost is not None)
    got = gateway.leg.rtp.statistics()
    assert (got.rtp_unauthentic, got.rtcp_malformed, call.stats.malformed) == (0, 0, 0)


async def test_a_side_that_will_not_encrypt_refuses_with_488(gateway, phone):
    gateway.local = local(srtp="off")

    async def refuse(call):
        gateway.act(gateway.agent.reject(call.dialog, 488, gateway.loop.time()))

    gateway.answer = refuse
    with pytest.raises(CallRejected, match="488"):
        await phone.call(gateway.uri, options=CallOptions(srtp="required"))


@pytest.mark.parametrize("way", ["port", "mux"])
async def test_reports_go_both_ways_and_tell_the_round_trip(gateway, phone, brisk, way):
    call = await phone.call(gateway.uri, options=CallOptions(rtcp=way))
    assert call.negotiated.rtcp_mux is (way == "mux")
    leg = gateway.leg
    await until(lambda: leg.rtp.statistics().round_trip_ms is not None and call.rtcp.remote.round_trip_ms is not None)
    got = leg.rtp.statistics()
    assert 0 <= got.round_trip_ms < 500
    assert got.remote_fraction_lost == 0
    assert got.rtcp_malformed == 0
    assert call.rtcp.remote.lost == 0


async def test_a_phone_without_rtcp_says_so(gateway, phone):
    call = await phone.call(gateway.uri, options=CallOptions(rtcp="off"))
    with pytest.raises(CallOver, match="no RTCP"):
        call.rtcp  # noqa: B018  the property raises


async def test_digits_of_the_agent_reach_the_phone(gateway, phone):
    packets = []
    call = await phone.call(gateway.uri, options=CallOptions(on_packet=lambda data, at: packets.append(data)))
    gateway.leg.rtp.send_digits("7", gateway.loop.time())
    await until(lambda: sum(data[1] & 0x7F == call.negotiated.telephone_event_pt for data in packets) == 7)


async def test_hold_keeps_the_encryption(gateway, phone):
    gateway.local = local(srtp="required", srtp_key=bytes(range(MASTER_BYTES)))
    call = await phone.call(gateway.uri, options=CallOptions(srtp="required"))
    keys = call.negotiated.srtp
    assert await call.set_direction(Direction.SENDONLY) is Direction.SENDONLY
    assert call.negotiated.srtp == keys
    assert await call.set_direction(Direction.SENDRECV) is Direction.SENDRECV
    assert await echoes(call)
