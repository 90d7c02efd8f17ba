"""One Twilio call as an entrance of a call leg: what Twilio is told to do next, and the stream's audio."""

from __future__ import annotations

import asyncio
import audioop
import base64
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, assert_never

from libs.audio.conceal import Concealer
from libs.audio.dtmf import tones
from libs.audio.g711 import Law
from libs.audio.tone import waiting_tone
from libs.call_leg.audio import CallAudio
from libs.call_leg.shell import LegShell
from libs.contracts.commands import LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from services.twilio_gateway import media_stream as stream
from services.twilio_gateway.heard import HeardPlayout
from services.twilio_gateway.line import Line
from services.twilio_gateway.slices import Slices

RATE_HZ = 8000
FRAME_SAMPLES = 160
FRAME_BYTES = 2 * FRAME_SAMPLES
STREAM_WITHIN_S = 10.0  # from our TwiML to the stream that it asks for
AGAIN_WITHIN_S = 4.0  # after a stream broke off: the call may still live, and then Twilio asks what comes next
SILENT_S = 10.0  # Twilio sends silence, too: without any message the connection is dead
LINGER_S = 0.6  # for the last words in Twilio's buffer
decode = Law.PCMU.decode


@dataclass(frozen=True, slots=True)
class NoAgent:
    """The caller gets the route's fallback."""

    fallback: Fallback
    termination: Termination


class Next(StrEnum):
    """What Twilio does with the call when its stream has ended."""

    CONNECT = "connect"
    DIAL = "dial"
    HANG_UP = "hang_up"


class TwilioCall:
    """Implements `libs.call_leg.ports.Entrance`; `tick` is called every 20 ms from set-up to end.

    The gateway sets `shell`, `may_reach` (transfers), `place` (outbound: ask Twilio to call), `complete` and
    `update` (the REST API).
    """

    def __init__(self, call: str, audio: CallAudio, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.call = call
        self.audio = audio
        self._playout = HeardPlayout(FRAME_BYTES)
        self._playout.on_cut = self._cut
        audio.playout = self._playout
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self.shell: LegShell | None = None
        self.place: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.complete: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.update: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.may_reach: Callable[[str], str | None] | None = None
        self.call_sid = ""
        self.is_outbound = False
        self.verdict: asyncio.Future[NoAgent | None] = self._loop.create_future()
        self.line: Line | None = None
        self.next = Next.CONNECT
        self.transfer_command: Transfer | None = None
        self.transfers = 0  # so far: what Twilio reports of an earlier one says nothing about the present one
        self.last_words: bytes | None = None
        self.forward_to: str | None = None
        self.is_answered = False
        self._is_released = False  # the caller is with the target of a transfer
        self._line_due_at: float | None = None
        self._closing_at: float | None = None
        self._slices = Slices()
        self._concealer = Concealer(RATE_HZ)
        self._keys = b""
        self._round_trip_s: float | None = None
        self.counters: Counter[str] = Counter()

    # -- the entrance's verbs ------------------------------------------------------------------------------------

    def objection(self, command: LegCommand) -> str | None:
        """REFER is SIP's; everything else can be done."""
        if isinstance(command, Transfer) and command.mode == "refer":
            return "Twilio calls are transferred by <Dial>: ask for mode 'auto' or 'bridge'"
        if isinstance(command, Transfer) and self.may_reach is not None:
            return self.may_reach(command.target)
        return None

    def dial(self) -> None:
        """Outbound: the agent is ready."""
        if self.place is not None:
            self._spawn(self.place())

    def answer(self) -> None:
        """Inbound: the agent is ready. Twilio answers when it gets our TwiML, or has done so while we waited."""
        self.is_answered = True
        self.audio.set_filler(b"")
        self._decide(None)

    def reject(self, fallback: Fallback, termination: Termination) -> None:
        """Before the answer Twilio refuses; after the ringing time the caller hears the message on the stream."""
        if self._decide(NoAgent(fallback, termination)) or self.line is None:
            return
        if fallback.kind == "transfer":
            self.forward_to = fallback.number
            self._close()
        elif fallback.message_ulaw_b64:
            self.last_words = audioop.ulaw2lin(base64.b64decode(fallback.message_ulaw_b64), 2)
        else:
            self._close()

    def hang_up(self, termination: Termination) -> None:
        """End the call, unless the caller is with somebody else now."""
        self.next = Next.HANG_UP
        if self._is_released:
            return
        self._decide(NoAgent(Fallback(), termination))
        if self.line is not None:
            self._close()
        elif self.complete is not None:  # no stream whose end Twilio would notice: it rings, or a transfer dials
            self._spawn(self.complete())

    def transfer(self, command: Transfer) -> Literal["refer", "bridge", "dial"]:
        """Our end of the stream closes, Twilio asks what comes next and gets `<Dial>`."""
        self.transfer_command, self.next = command, Next.DIAL
        self.transfers += 1
        self._line_due_at = None
        if self.line is not None:
            self._forget(self.line)
            self.line.close(reason="transfer")
            self.line = None
        elif self.update is not None:
            self._spawn(self.update())
        return "dial"

    def cancel_transfer(self) -> None:
        """Twilio leaves `<Dial>` for a new stream to the agent."""
        if self.transfer_command is None or self._is_released or self.next is Next.HANG_UP:
            return
        self.returned()
        if self.update is not None:
            self._spawn(self.update())

    def send_dtmf(self, digits: str) -> None:
        """In-band: a media stream has no other way, and `<Play digits>` would end it."""
        self._keys += tones(digits, RATE_HZ)

    def hold(self, held: bool) -> None:
        """Twilio needs to know nothing: the leg plays the waiting tone."""

    def send_now(self) -> None:
        """A talkspurt begins: its first frame leaves before the tick, and stays that little bit ahead."""
        now = self._loop.time()
        line = self.line
        if line is not None and self._may_play(line, now):
            line.send(line.downlink.frame(self._next_frame(), now))

    def statistics(self) -> MediaStatistics:
        """Counters of the call so far; "RTP" is the stream's frames here."""
        audio, seen, sent = self.audio, self.counters, Counter[str]()
        if self.line is not None:
            seen, sent = seen + self.line.stream.counters, self.line.downlink.counters
            self._round_trip_s = self.line.downlink.round_trip_s
        bus = audio.statistics()
        line = {
            "rtp_received": self._slices.frames + seen["duplicate"],
            "rtp_lost": seen["lost"],
            "rtp_duplicate": seen["duplicate"],
            "rtp_foreign": seen["foreign"],
            "rtp_malformed": seen["malformed"],
            "rtp_sent": seen["frames"] + sent["frames"],
            "rtp_unsent": seen["unsent"] + (self.line.dropped if self.line else 0),
            "up_dropped": bus.up_dropped + self._slices.dropped,
            "round_trip_ms": None if self._round_trip_s is None else round(1000 * self._round_trip_s, 1),
        }
        return bus.model_copy(update=line)

    def totals(self) -> Counter[str]:
        """What the call's streams have counted so far."""
        now = Counter[str]() if self.line is None else self.line.stream.counters + self.line.downlink.counters
        return self.counters + now + Counter(cut=self.audio.playout.counters["cut"])

    # -- what happens at Twilio --------------------------------------------------------------------------------

    def rang_enough(self) -> NoAgent | None:
        """The ringing time is over: whatever comes of the call now, it comes by the stream."""
        self._decide(None)
        return self.verdict.result()

    def expect_line(self) -> None:
        """TwiML that asks for a stream is on its way; or asks again, by a request that was repeated."""
        if self.line is None:
            self._line_due_at = self._loop.time() + STREAM_WITHIN_S

    def attach(self, line: Line) -> None:
        """The call's stream is there, the first one or another after a transfer or a broken connection."""
        now = self._loop.time()
        if self.line is not None:
            self._forget(self.line)
            self.line.close(reason="another stream took its place")
        self.line, self._line_due_at = line, None
        line.send(line.downlink.begin(now))
        if not self.is_answered and not self.is_outbound:
            self.audio.set_filler(waiting_tone(RATE_HZ))
        if self._closing_at is not None:
            self._close()

    def answered(self) -> None:
        """Outbound: the callee picked up; the stream comes next, or is there already."""
        self.is_answered = True
        if self.line is None:
            self.expect_line()

    def detach(self, line: Line, *, by: str) -> None:
        """A stream has ended. Ours to notice only if it is the present one."""
        line.gone.set()
        if line is not self.line:
            return
        self._forget(line)
        self.line = None
        if self.shell is None or self._closing_at is not None or self.next is not Next.CONNECT:
            return
        if by == "lost":
            self._line_due_at = self._loop.time() + AGAIN_WITHIN_S
        elif by == "refused":
            self.next = Next.HANG_UP
            self.shell.end(Termination.of(Reason.TRUNK_FAILED, "the media stream broke Twilio's protocol"))
        else:
            self.gone()

    def gone(self, detail: str = "") -> None:
        """The other side has left."""
        self.next = Next.HANG_UP
        self._line_due_at = None
        self._decide(NoAgent(Fallback(), Termination.of(Reason.CALLER_CANCELLED)))
        if self.shell is not None:
            is_callee, talked = self.is_outbound, self.is_answered
            reason = (
                Reason.CALLEE_HUNG_UP if is_callee else Reason.CALLER_HUNG_UP if talked else Reason.CALLER_CANCELLED
            )
            self.shell.caller_gone(reason, detail)

    def released(self) -> None:
        """The target of the transfer answered: the caller is with it."""
        self._is_released, self.next = True, Next.HANG_UP

    def returned(self) -> None:
        """The transfer failed: the caller comes back by a new stream."""
        self.transfer_command, self.next = None, Next.CONNECT
        self.expect_line()

    def take(self, line: Line, actions: list[stream.Action], now: float) -> str | None:
        """What the stream's core made of a message; how the stream ended, when it did."""
        for action in actions:
            match action:
                case stream.Heard(ulaw):
                    self._slices.push(ulaw)
                    self._up(now)
                case stream.MarkReturned(name):
                    line.downlink.mark_returned(name, now)
                case stream.Pressed(digit):
                    if self.shell is not None:
                        self.shell.dtmf(digit)
                case stream.Close(code, reason):
                    line.close(code, reason)
                case stream.Ended(by):
                    return by
                case stream.Started():
                    pass
                case _:
                    assert_never(action)
        return None

    def _up(self, now: float) -> None:
        for frame in self._slices.take(now):
            self.audio.received(self._concealer.good(decode(frame)), now)

    def _conceal(self) -> bytes:
        return self._concealer.conceal(FRAME_SAMPLES)

    def tick(self, now: float) -> None:
        """20 ms have passed."""
        self._up(now)
        self.audio.fill(now, self._conceal)
        if self._line_due_at is not None and now > self._line_due_at:
            self.gone("no media stream came")
        line = self.line
        if line is None:
            return
        self.take(line, line.stream.expire(now), now)
        if now - line.received_at > SILENT_S:
            line.close(reason="nothing comes any more")
            self.detach(line, by="lost")
        elif self._closing_at is not None and (line.downlink.is_drained or now >= self._closing_at):
            line.close()
        elif self._may_play(line, now):
            self._playout.lag_frames = line.downlink.lag_frames
            self._playout.aged()
            line.send(line.downlink.frame(self._next_frame(), now))

    def _may_play(self, line: Line, now: float) -> bool:
        is_heard = self.is_answered or not self.is_outbound
        return is_heard and self._closing_at is None and line.downlink.may_send(now, line.received_at)

    def _next_frame(self) -> bytes | None:
        if not self._keys:
            return self.audio.tick()
        key, self._keys = self._keys[:FRAME_BYTES], self._keys[FRAME_BYTES:]  # the agent waits meanwhile
        return key + bytes(FRAME_BYTES - len(key))

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """The leg has ended: the fallback's message, the last words in Twilio's buffer, the stream's end."""
        if self.last_words is not None and (line := self.line) is not None:
            self.audio.set_filler(self.last_words + bytes(int(2 * RATE_HZ * LINGER_S)))
            with suppress(TimeoutError):  # or the caller has heard enough
                async with asyncio.timeout(len(self.last_words) / (2 * RATE_HZ) + LINGER_S / 2):
                    await line.gone.wait()
            self.audio.set_filler(b"")
        if (line := self.line) is None:
            return
        self._close()
        try:
            async with asyncio.timeout(2 * LINGER_S):
                await line.gone.wait()
        except TimeoutError:
            line.close()

    def _close(self) -> None:
        self.next = Next.HANG_UP
        if self._closing_at is None:
            now = self._loop.time()
            self._closing_at = now + LINGER_S
            if self.line is not None:
                self.line.send(self.line.downlink.frame(None, now))

    def _cut(self) -> None:
        if self.line is not None and self._closing_at is None:
            self.line.send(self.line.downlink.cut(self._loop.time()))

    def _decide(self, verdict: NoAgent | None) -> bool:
        if self.verdict.done():
            return False
        self.verdict.set_result(verdict)
        return True

    def _forget(self, line: Line) -> None:
        """Keep what an ended stream has counted."""
        self.counters.update(line.stream.counters)
        self.counters.update(line.downlink.counters)
        self._round_trip_s = line.downlink.round_trip_s
        self.counters["unsent"] += line.dropped
