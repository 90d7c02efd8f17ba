"""A person at a browser who takes a call over: on the bus this side speaks as a worker does (`TakeOver`).

`by` is its name there, new for each connection: heartbeats with capacity 0, the caller's `up` frames, our own `dn`
frames as they come from the microphone. The page always has 16 kHz; a call at 8 kHz is converted here. When the page
goes, `hand_over` gives the call back to an agent; when this process dies, its heartbeats stop and the leg finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from libs.audio.resample import Resampler
from libs.call_leg.uplink import Uplink
from libs.contracts import subjects
from libs.contracts.commands import Command, CommandReply, HandOver, HangUp, SendDtmf, TakeOver, Transfer
from libs.contracts.frame import AudioFrame, Codec, FrameError, pack, unpack
from libs.contracts.heartbeat import WorkerHeartbeat
from libs.contracts.offer import Release
from libs.contracts.termination import Termination
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from services.browser_gateway.connection import Connection
from services.browser_gateway.messages import (
    Answered,
    Done,
    Ended,
    Flush,
    FromPage,
    HandBackPressed,
    HangUpPressed,
    KeyPressed,
    MutePressed,
    NotDone,
    PageFlushed,
    TransferPressed,
)
from services.browser_gateway.page_playout import PagePlayout
from services.browser_gateway.page_stream import FRAME_BYTES, RATE_HZ, downlink

log = get_logger()

BEAT_S = 0.1
LIST_EVERY = 10
COMMAND_TIMEOUT_S = 1.0
HAND_OVER_ATTEMPTS = 4
HAND_OVER_PAUSE_S = 0.25
UPLINK_SILENT_S = 2.0  # R2: whoever gets no `up` for so long does not own the call any more
PRESSES = 32  # keys and wishes that wait for their turn
RELEASED = "another has the call now"


class TakeOverRefused(Exception):
    """The call stays where it is; the text says why."""


class TakenCall:
    """`take()`, then `run()` until the call is over or in other hands; `give_back()` when the page went."""

    def __init__(
        self, bus: Bus, connection: Connection, org: str, call: str, by: str, is_sound: Callable[[], bool]
    ) -> None:
        self._bus = bus
        self._is_sound = is_sound  # R3: whether a peer's silence is evidence
        self._connection = connection
        self.org, self.call, self.by = org, call, by
        self._loop = asyncio.get_running_loop()
        self._playout = PagePlayout(FRAME_BYTES, self._flush)
        self._subscriptions: list[Subscription] = []
        self._epoch = -1
        self._gw = ""
        self._codec = Codec.PCM16_8000
        self._to_page = self._from_page = Resampler(RATE_HZ, RATE_HZ)
        self._subject = ""
        self._seq = self._timestamp = self._heard = 0
        self._heard_at = self._loop.time()
        self._clock = Uplink()
        self._presses: asyncio.Queue[FromPage] = asyncio.Queue(PRESSES)
        self._released: Release | None = None  # before the answer to `take_over` was read
        self.ended: asyncio.Future[Ended] = self._loop.create_future()

    # -- taking and giving back ----------------------------------------------------------------------------

    async def beat(self) -> None:
        """Heartbeats until cancelled; they begin before the call is asked for."""
        subject, number = subjects.worker_heartbeat(self.by), 0
        while True:
            listed = (self.call,) if number % LIST_EVERY == 0 else None
            beat = WorkerHeartbeat(wk=self.by, calls=1, capacity=0, call_list=listed)
            self._bus.send_frame(subject, beat.to_json())
            number += 1
            is_silent = self._epoch >= 0 and self._loop.time() - self._heard_at > UPLINK_SILENT_S
            if is_silent and self._is_sound():
                self._over(Ended(termination=None, detail="the call's gateway is silent"))
            await asyncio.sleep(BEAT_S)

    async def take(self) -> None:
        """Ask for the call.

        Raises:
            TakeOverRefused: there is no such call, or its leg says no.
        """
        up = subjects.audio(self.org, subjects.ANY, self.by, self.call, "up")
        self._subscriptions.append(await self._bus.media.subscribe(up, cb=self._on_up))
        release = subjects.release(self.by)
        self._subscriptions.append(await self._bus.control.subscribe(release, cb=self._on_release))
        await self._bus.subscribed()
        reply = await self._ask(TakeOver(by=self.by))
        if not reply.ok:
            raise TakeOverRefused(reply.error)
        try:
            self._gw = str(reply.details["gw"])
            self._codec = Codec.of_rate(int(reply.details["rate_hz"]))
            self._subject = subjects.audio(self.org, self._gw, self.by, self.call, "dn")
            self._epoch = int(reply.details["epoch"])
        except (KeyError, ValueError, TypeError) as error:
            raise TakeOverRefused(f"the call's leg answered without {error}") from None
        self._to_page = Resampler(self._codec.rate_hz, RATE_HZ)
        self._from_page = Resampler(RATE_HZ, self._codec.rate_hz)
        self._heard_at = self._loop.time()
        self._clock.start(self._heard_at)
        self._playout.begin_epoch(self._epoch, "continuous")
        log.info("taken over", call=self.call, by=self.by, epoch=self._epoch, rate_hz=self._codec.rate_hz)
        if self._released is not None:  # somebody else was faster than our reading of the answer
            self._take_release(self._released)

    def answered(self) -> None:
        """Tell the page that it speaks with the caller."""
        self._connection.send(Answered(call=self.call, rate_hz=RATE_HZ))

    async def give_back(self) -> str | None:
        """Hand the call to an agent; None when the leg agreed, else why not. The heartbeats go on meanwhile."""
        objection = "no answer"
        for attempt in range(HAND_OVER_ATTEMPTS):
            if attempt:
                await asyncio.sleep(HAND_OVER_PAUSE_S)
            if self.ended.done():
                return None
            reply = await self._ask(HandOver(epoch=self._epoch))
            if reply.ok:
                return None
            objection = reply.error
        log.warning("nobody takes the call back", call=self.call, by=self.by, why=objection)
        return objection

    async def close(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    async def _ask(self, command: Command) -> CommandReply:
        try:
            data = await self._bus.request(
                subjects.control(self.org, self.call, "leg"), command.to_json(), COMMAND_TIMEOUT_S
            )
            return CommandReply.model_validate_json(data)
        except nats.errors.NoRespondersError:
            return CommandReply(ok=False, error="there is no such call")
        except (nats.errors.Error, ValidationError, OSError) as error:
            return CommandReply(ok=False, error=f"the call did not answer: {error or type(error).__name__}")

    def _over(self, how: Ended) -> None:
        if not self.ended.done():
            self.ended.set_result(how)

    # -- from the bus --------------------------------------------------------------------------------------

    async def _on_up(self, msg: Msg) -> None:
        """Hot path: the caller, 50 frames a second. Never awaits."""
        try:
            frame = unpack(msg.data)
        except FrameError:
            self._playout.counters["malformed"] += 1
            return
        if frame.epoch != self._epoch or frame.codec != self._codec:
            self._playout.counters["fenced"] += 1
            return
        self._heard_at = self._loop.time()
        pcm = self._to_page.process(frame.payload)
        self._playout.push(AudioFrame(Codec.PCM16_16000, 0, self._epoch, frame.seq, self._heard, pcm))
        self._heard += len(pcm) // 2

    async def _on_release(self, msg: Msg) -> None:
        try:
            release = Release.model_validate_json(msg.data)
        except ValidationError:
            return
        if release.call != self.call:
            return
        if self._epoch < 0:
            self._released = release
        else:
            self._take_release(release)

    def _take_release(self, release: Release) -> None:
        if release.epoch >= self._epoch:
            if release.reason is None:
                self._over(Ended(termination=None, detail=RELEASED))
            else:
                self._over(Ended(termination=Termination.of(release.reason)))

    # -- the page ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """20 ms have passed."""
        self._clock.due(now)  # what a page that stalled owes is not made up for, and does not come late in a burst
        if self._playout.has_room and (pcm := self._playout.pop()) is not None:
            self._connection.send_audio(downlink(self._playout.hand_over(len(pcm) // 2), pcm))

    def media_failed(self) -> None:
        """A defect in this call's media: the page is closed, the call goes back."""
        self._over(Ended(termination=None, detail="a defect in the gateway's media; see its log"))

    def _flush(self, generation: int) -> None:
        self._connection.drop_audio()
        self._connection.send(Flush(generation=generation))

    def heard(self, frames: list[bytes]) -> None:
        """The operator's voice."""
        self._playout.page_played(self._connection.stream.position)
        now = self._loop.time()
        for pcm in frames:
            if not self._clock.admit(now):
                continue
            payload = self._from_page.process(pcm)
            frame = AudioFrame(self._codec.value, 0, self._epoch, self._seq, self._timestamp, payload)
            self._seq += 1
            self._timestamp += len(payload) // 2
            self._bus.send_frame(self._subject, pack(frame))

    def told(self, message: FromPage) -> None:
        """What the operator presses; what the leg has to be asked for waits, so that the voice does not."""
        match message:
            case PageFlushed():
                self._playout.page_flushed(message.generation, message.position)
            case MutePressed():
                self._connection.stream.muted = message.muted
            case KeyPressed() | TransferPressed() | HandBackPressed() | HangUpPressed():
                try:
                    self._presses.put_nowait(message)
                except asyncio.QueueFull:
                    self._answer(message.type, "too much at once: try again")
            case _:
                pass

    async def obey(self) -> None:
        """Do what is pressed, one after the other, until cancelled."""
        while True:
            await self._obey(await self._presses.get())

    async def _obey(self, message: FromPage) -> None:
        match message:
            case KeyPressed():
                await self._do(message.type, SendDtmf(epoch=self._epoch, digits=message.digit))
            case TransferPressed():
                await self._do(message.type, Transfer(epoch=self._epoch, target=message.target))
            case HandBackPressed():
                objection = await self.give_back()
                self._answer(message.type, objection)
            case HangUpPressed():
                await self._do(message.type, HangUp(epoch=self._epoch))
            case _:
                pass

    async def _do(self, what: str, command: Command) -> None:
        reply = await self._ask(command)
        self._answer(what, None if reply.ok else reply.error)

    def _answer(self, what: str, objection: str | None) -> None:
        self._connection.send(Done(what=what) if objection is None else NotDone(what=what, error=objection))
