"""One call of the softphone: its RTP socket, what it says and what it hears."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from libs.audio.codec import CLOCK_HZ, CODECS, codec_named
from libs.audio.rtcp import RtcpReporter
from libs.audio.rtp import RtpError, RtpPacket
from libs.audio.srtp import Unauthentic
from libs.sip.sdes import MASTER_BYTES, SrtpPolicy
from libs.sip.sdp import Direction, LocalMedia, Negotiated, SessionDescription, local_media, make_offer
from libs.softphone.control import ControlEnd, Security
from libs.softphone.endpoint import RtpEndpoint
from libs.softphone.heard import HeardPacket, StreamStats, Timeline
from libs.softphone.listening import Listener, Speech
from libs.softphone.talker import PlayHandle, RtpStart, Talker
from libs.softphone.ticker import shared_ticker

if TYPE_CHECKING:
    from libs.softphone.phone import Softphone

Result = TypeVar("Result")

OnPacket = Callable[[bytes, float], None]


class CallRejected(Exception):
    """The call was not answered: a final response, or 408 when nobody answered in time."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status = status
        self.reason = reason


class CallOver(Exception):
    """Something was awaited that the end of the call made impossible."""


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How a call ended: a `libs.sip` end cause, "rejected" or "closed"; status and reason where there were any."""

    cause: str
    status: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Rarely wanted settings of one call.

    `on_packet` gets every received RTP datagram and its time of arrival; with `keeps_audio` off nothing is decoded or
    kept, for load tests. `rtp_start` sets the first sequence number, timestamp and SSRC. `sends_silence` off stops the
    stream in pauses. `srtp` "required" offers an encrypted stream and nothing else. RTCP goes over the port after
    RTP's, over the same one ("mux", if the peer agrees), or not at all.
    """

    rtp_start: RtpStart | None = None
    sends_silence: bool = True
    keeps_audio: bool = True
    on_packet: OnPacket | None = None
    srtp: SrtpPolicy = "off"
    rtcp: Literal["port", "mux", "off"] = "port"

    def local_media(self, address: tuple[str, int], codecs: tuple[str, ...]) -> LocalMedia:
        """Our side of the offer, with a key of its own where one is needed."""
        key = secrets.token_bytes(MASTER_BYTES) if self.srtp != "off" else b""
        return LocalMedia(
            *address, codecs, secrets.randbits(31), srtp=self.srtp, srtp_key=key, rtcp_mux=self.rtcp == "mux"
        )


class PhoneCall:
    """A call placed by `Softphone`. `dialog` is its id in the SIP core; `offer` our last session description."""

    def __init__(
        self, phone: Softphone, dialog: str, rtp: RtpEndpoint, offer: SessionDescription, options: CallOptions
    ) -> None:
        loop = asyncio.get_running_loop()
        self.dialog = dialog
        self.offer = offer
        self.negotiated: Negotiated | None = None
        self.ringing_status: int | None = None
        self.ended: CallEnd | None = None
        self.placed_at = time.monotonic()
        self.answered_at: float | None = None
        self.on_packet = options.on_packet
        self.timeline = Timeline({})
        self._phone = phone
        self._rtp = rtp
        self._options = options
        self._talker: Talker | None = None
        self._security = Security()
        self._control: ControlEnd | None = None
        self.rate_hz = CLOCK_HZ
        self._ringing = asyncio.Event()
        self._answer: asyncio.Future[None] = loop.create_future()
        self._end: asyncio.Future[CallEnd] = loop.create_future()
        self._reoffer: asyncio.Future[None] | None = None
        self._listener = Listener()

    # -- talking ------------------------------------------------------------------------------------------------

    @property
    def _speaker(self) -> Talker:
        if self._talker is None or self.ended is not None:
            raise CallOver(f"the call is {'over' if self.ended else 'not answered yet'}")
        return self._talker

    def play(self, pcm16: bytes) -> PlayHandle:
        """Queue speech (16-bit little-endian, `rate_hz`); it goes out in frames of 20 ms after what is queued already.

        Raises CallOver when the call is not answered yet or has ended.
        """
        return self._speaker.play(pcm16)

    async def send_dtmf(self, digits: str, duration_ms: int = 100, gap_ms: int = 60) -> None:
        """Send digits as RFC 4733 events and wait until they are out.

        Raises CallOver when the peer takes no telephone events, DtmfError for what is no digit.
        """
        if self.negotiated is None or self.negotiated.telephone_event_pt is None:
            raise CallOver("telephone events were not agreed on")
        await self._speaker.queue_digits(digits, duration_ms, gap_ms).wait()

    def mute(self, muted: bool = True) -> None:
        """Send silence instead of what is queued; the queue runs on."""
        self._speaker.muted = muted

    def send_rtp(self, data: bytes) -> None:
        """Send any bytes to the peer's RTP address, for tests with damaged packets."""
        if self.negotiated is not None:
            self._rtp.send(data, (self.negotiated.remote_host, self.negotiated.remote_port))

    @property
    def packets_sent(self) -> int:
        return self._talker.packets if self._talker is not None else 0

    def _tick(self, tick: int) -> None:
        talker, negotiated = self._talker, self.negotiated
        if talker is None or negotiated is None:
            return
        now = time.monotonic()
        data = talker.packet(tick, now)
        if data is not None and negotiated.direction.sends:
            if self._control is not None:
                self._control.sent(data, now)
            self._rtp.send(self._security.protect(data), (negotiated.remote_host, negotiated.remote_port))
        if self._control is not None:
            self._control.tick(now)

    @property
    def rtcp(self) -> RtcpReporter:
        """Our end of RTCP: what the peer reports, what we measured. Raises CallOver where there is none."""
        if self._control is None:
            raise CallOver("the call has no RTCP")
        return self._control.reporter

    # -- hearing ------------------------------------------------------------------------------------------------

    @property
    def heard(self) -> bytearray:
        """All audio so far, 16-bit little-endian at `rate_hz`, placed by RTP timestamp; gaps are silence."""
        return self.timeline.pcm

    @property
    def heard_positions(self) -> list[HeardPacket]:
        """Position, length and time of arrival of each packet in `heard`."""
        return self.timeline.packets

    @property
    def stats(self) -> StreamStats:
        return self.timeline.stats

    def _datagram(self, data: bytes) -> None:
        arrived_at = time.monotonic()
        if self.on_packet is not None:
            self.on_packet(data, arrived_at)
        if not self._options.keeps_audio:
            return
        if self._control is not None and self._control.took(data):
            return
        try:
            packet = RtpPacket.parse(self._security.unprotect(data))
        except (RtpError, Unauthentic):
            self.timeline.stats.malformed += 1
            return
        if self._control is not None:
            self._control.received(packet, arrived_at)
        pcm = self.timeline.push(packet, arrived_at)
        if pcm and self.timeline.packets:
            self._listener.heard(pcm, self.timeline.packets[-1])

    async def wait_for_speech(self, min_dbfs: float = -35.0, ms: int = 60, timeout_s: float | None = 10.0) -> Speech:
        """Wait for `ms` of uninterrupted audio of at least `min_dbfs`, counted from now.

        Raises TimeoutError, and CallOver when the call ends first.
        """
        wait = self._listener.for_speech(min_dbfs, ms * self.rate_hz // 1000)
        try:
            return await self._or_end(wait.future, timeout_s)
        finally:
            self._listener.forget(wait)

    async def wait_for_silence(self, ms: int = 500, timeout_s: float | None = 10.0, min_dbfs: float = -35.0) -> None:
        """Wait until nothing of at least `min_dbfs` was heard for `ms`, counted from now; no packets are silence too.

        Raises TimeoutError, and CallOver when the call ends first.
        """
        wait = self._listener.for_silence(min_dbfs, ms / 1000)
        try:
            await self._or_end(wait.future, timeout_s)
        finally:
            self._listener.forget(wait)

    async def _or_end(self, future: asyncio.Future[Result], timeout_s: float | None) -> Result:
        """The future's result, unless the call ends or time runs out first."""
        async with asyncio.timeout(timeout_s):
            waited: set[asyncio.Future[Any]] = {future, self._end}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        future.cancel()
        raise CallOver(f"the call ended first: {self.ended}")

    # -- signalling ---------------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        return self.answered_at is not None

    async def wait_ringing(self, timeout_s: float | None = 10.0) -> int:
        """Wait for a provisional response above 100; gives its status. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._ringing.wait()
        assert self.ringing_status is not None
        return self.ringing_status

    async def wait_answered(self, timeout_s: float = 32.0) -> None:
        """Wait for the answer. Raises CallRejected; 408 when it did not come in time, after a CANCEL."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._answer)
        except TimeoutError:
            self._phone.hang_up(self.dialog)
            raise CallRejected(408, f"not answered in {timeout_s:g} s") from None
        except asyncio.CancelledError:
            self._phone.hang_up(self.dialog)
            raise

    async def hang_up(self, cause: str = "") -> CallEnd:
        """BYE, or CANCEL before the answer; waits for the end. `cause` becomes the Reason header."""
        self._phone.hang_up(self.dialog, cause)
        return await self.wait_ended()

    async def cancel(self) -> CallEnd:
        """Give the call up before it is answered; waits for the end."""
        return await self.hang_up()

    async def wait_ended(self, timeout_s: float | None = None) -> CallEnd:
        """How the call ended. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._end)

    async def set_direction(self, direction: Direction, timeout_s: float = 10.0) -> Direction:
        """Hold and resume by re-INVITE; gives our direction as agreed. Raises CallRejected, TimeoutError."""
        media = self.offer.media[0]
        codecs = tuple(name for _, name, _ in media.codecs() if name in CODECS)
        local = replace(local_media(self.offer, codecs), direction=direction)
        offer = replace(make_offer(local), session_version=self.offer.session_version + 1)
        previous, self.offer = self.offer, offer
        self._reoffer = asyncio.get_running_loop().create_future()
        try:
            self._phone.reinvite(self.dialog, offer)
            await self._or_end(self._reoffer, timeout_s)
        except BaseException:  # nothing is swallowed: whatever ended it, the session is as before
            self.offer = previous
            raise
        finally:
            self._reoffer = None
        assert self.negotiated is not None
        return self.negotiated.direction

    # -- told by the phone --------------------------------------------------------------------------------------

    def rang(self, status: int) -> None:
        self.ringing_status = status
        self._ringing.set()

    def media_changed(self, negotiated: Negotiated) -> None:
        """The first answer, or a new address or direction of the peer."""
        self.negotiated = negotiated
        self._security.agree(negotiated.srtp)
        codec = codec_named(negotiated.codec)
        if self._talker is None:
            start = self._options.rtp_start or RtpStart(
                secrets.randbits(16), secrets.randbits(32), secrets.randbits(32)
            )
            self._talker = Talker(codec, negotiated.payload_type, start, negotiated.telephone_event_pt)
            self._talker.sends_silence = self._options.sends_silence
            decoder, self.rate_hz = codec.decoder(), codec.rate_hz
            decoders = {codec.payload_type: decoder, negotiated.payload_type: decoder}
            self.timeline = Timeline(decoders, rate_hz=codec.rate_hz)
            if self._options.rtcp != "off":
                self._control = ControlEnd(start.ssrc, self._rtp, self._security, time.monotonic())
            self._rtp.on_datagram = self._datagram
            shared_ticker().subscribe(self._tick)
        if self._control is not None:
            self._control.agree(negotiated)
        if self.answered_at is None:
            self.answered_at = time.monotonic()
            if not self._answer.done():
                self._answer.set_result(None)

    def offer_settled(self, failure: CallRejected | None) -> None:
        """The answer to our re-INVITE."""
        if self._reoffer is None or self._reoffer.done():
            return
        if failure is None:
            self._reoffer.set_result(None)
        else:
            self._reoffer.set_exception(failure)

    def fail(self, failure: CallRejected) -> None:
        """The call was answered with what we cannot use."""
        if not self._answer.done():
            self._answer.set_exception(failure)
            self._answer.exception()  # marks it as seen: nobody may be waiting

    def end(self, end: CallEnd) -> None:
        """The dialog is over: stop the stream, close the socket, wake everybody who waits."""
        if self.ended is not None:
            return
        self.ended = end
        shared_ticker().unsubscribe(self._tick)
        if self._control is not None:
            self._control.close(time.monotonic())
        self._rtp.close()
        if self._talker is not None:
            self._talker.close()
        self.fail(CallRejected(end.status or 0, end.reason or end.cause))
        if not self._end.done():
            self._end.set_result(end)
