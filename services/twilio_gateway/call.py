"""One Twilio call as an entrance of a call leg: what Twilio is told to do next, and the stream's audio."""

from __future__ import annotations

import asyncio
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
from libs.call_leg.last_words import LastWords
from libs.call_leg.shell import LegShell
from libs.contracts.commands import LegCommand, Transfer
from libs.contracts.config import Fallback
from libs.contracts.media import MediaStatistics
from libs.contracts.termination import Reason, Termination
from services.twilio_gateway import media_stream as stream
from services.twilio_gateway.heard import HeardPlayout
from services.twilio_gateway.line import Line
from services.twilio_gateway.slices import Slices
from services.twilio_gateway.totals import Totals

RATE_HZ = 8000
FRAME_SAMPLES = 160
FRAME_BYTES = 2 * FRAME_SAMPLES
STREAM_WITHIN_S = 10.0  # from our TwiML to the stream that it asks for
AGAIN_WITHIN_S = 4.0  # after a stream broke off: the call may still live, and then Twilio asks what comes next
SILENT_S = 10.0  # Twilio sends silence, too: without any message the connection is dead
LINGER_S = 0.6  # for the last words in Twilio's buffer
decode = Law.PCMU.decode
Spawn = Callable[[Coroutine[Any, Any, None]], None]


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
    `update` (the REST API). A call without `shell` has no leg: `part_with` it, and `finish`.
    """

    def __init__(self, call: str, audio: CallAudio, spawn: Spawn, last_words: LastWords) -> None:
        self.call = call
        self.audio = audio
        self._last_words = last_words
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
        self.parting: Fallback | None = None  # what the caller hears on the stream when no agent comes
        self.unheard: Fallback | None = None  # the same, until there is a stream
        self._line_came = asyncio.Event()  # or will not come
        self.forward_to: str | None = None
        self.is_answered = False
        self._is_released = False  # the caller is with the target of a transfer
        self._line_due_at: float | None = None
        self._closing_at: float | None = None
        self._slices = Slices()
        self._concealer = Concealer(RATE_HZ)
        self._keys = b""
        self._totals = Totals()

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
        """Before the answer Twilio refuses, or plays the message itself.

        What the caller says to it comes by a stream; and after the ringing time all of this is on the stream.
        """
        is_unanswered = self._decide(NoAgent(fallback, termination))
        if is_unanswered:
            if self._last_words.takes_message(fallback, termination.reason):
                self.part_with(fallback)
        elif fallback.kind == "transfer":
            self.forward_to = fallback.number
            self._close()
        elif fallback.has_message:
            self.part_with(fallback)
        else:
            self._close()

    def part_with(self, fallback: Fallback) -> None:
        """This is for the caller, by `finish`, on the stream that is there or asked for."""
        self.parting = fallback
        if self.line is None:
            self.unheard = fallback

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
            self._totals.forget(self.line)
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
        return self._totals.statistics(self.line, self._slices, self.audio)

    def totals(self) -> Counter[str]:
        """What the call's streams have counted so far."""
        return self._totals.of_all(self.line) + Counter(cut=self.audio.playout.counters["cut"])

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
            self._totals.forget(self.line)
            self.line.close(reason="another stream took its place")
        self.line, self._line_due_at, self.unheard = line, None, None
        self._line_came.set()
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
        self._totals.forget(line)
        self.line = None
        if self.shell is None or self._closing_at is not None or self.next is not Next.CONNECT:
            return
        if by == "lost":
            self._line_due_at = self._loop.time() + AGAIN_WITHIN_S
        elif by == "refused":
            self.next = Next.HANG_UP
            self.end(Termination.of(Reason.TRUNK_FAILED, "the media stream broke Twilio's protocol"))
        else:
            self.gone()

    def end(self, why: Termination) -> None:
        """Something broke that this call cannot do without."""
        if self.shell is not None:
            self.shell.end(why)
        if self.parting is not None and self.line is not None:
            self.line.close(reason=why.reason)

    def gone(self, detail: str = "") -> None:
        """The other side has left."""
        self.next = Next.HANG_UP
        self._line_due_at = None
        self._line_came.set()
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
        if self.parting is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_WITHIN_S):
                    await self._line_came.wait()
            if (line := self.line) is not None:
                await self._last_words.say(self.parting, self.audio, line.gone)
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


@dataclass(frozen=True, slots=True)
class Live:
    """A call with its leg, while it lasts."""

    shell: LegShell
    call: TwilioCall
    left: asyncio.Future[None]
