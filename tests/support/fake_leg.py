"""A gateway's half of one call without telephony: offers, sends `up`, keeps what comes down, answers commands.

Plays what it receives as a gateway would: 20 ms a tick, in order, flush and FLUSHED included. Time is
the test's own: `speak` sends one frame per call of the loop, paced or as fast as wanted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.commands import CommandReply, Ready
from libs.contracts.frame import AudioFrame, Codec, Flag, pack, unpack
from libs.contracts.ids import new_call_id
from libs.contracts.offer import CallState, Offer, OfferReply, Release, Resume
from libs.contracts.wire import leg_command_decoder


class FakeLeg:
    """One call at one gateway. `commands` holds what the worker asked, `frames` what it sent."""

    def __init__(self, nats: Client, agent: AgentConfig, *, gw: str = "gw-test", call: str | None = None) -> None:
        self.nats = nats
        self.agent = agent
        self.gw = gw
        self.call = call or new_call_id()
        self.epoch = 0
        self.wk = ""
        self.state = CallState()
        self.commands: list[Any] = []
        self.frames: list[AudioFrame] = []
        self.heard = bytearray()  # what the caller would have heard, silence left out
        self.played = 0
        self.usd_per_day: float | None = None  # the organisation's budget, as offers tell it
        self.refuse: dict[str, str] = {}  # command kind -> error
        self._queue: deque[AudioFrame] = deque()
        self._flushed = False
        self._flush_seq = -1
        self._seq = self._timestamp = 0
        self._changed = asyncio.Event()
        self._subscriptions: list[Any] = []

    async def start(self) -> None:
        """Listen for commands and frames."""
        self._subscriptions = [
            await self.nats.subscribe(subjects.control(self.agent.org, self.call, "leg"), cb=self._on_command),
            await self.nats.subscribe(subjects.audio(self.agent.org, self.gw, "*", self.call, "dn"), cb=self._on_frame),
        ]
        await self.nats.flush()

    async def stop(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    async def offer(self, wk: str, *, resume: Resume | None = None) -> OfferReply:
        """Offer the call to a worker under a new epoch."""
        self.epoch += 1
        self.wk = wk
        self.played = self._seq = self._timestamp = 0
        self._queue.clear()
        self._flushed, self._flush_seq = False, -1
        offer = Offer(
            call=self.call,
            org=self.agent.org,
            gw=self.gw,
            epoch=self.epoch,
            caller="+493011111",
            callee="+493022222",
            agent=self.agent,
            state=self.state,
            resume=resume,
            org_usd_per_day=self.usd_per_day,
        )
        reply = await self.nats.request(subjects.offer(wk), offer.to_json(), timeout=2)
        return OfferReply.model_validate_json(reply.data)

    async def release(self, epoch: int | None = None) -> None:
        """Take the call from the worker."""
        message = Release(call=self.call, epoch=self.epoch if epoch is None else epoch)
        await self.nats.publish(subjects.release(self.wk), message.to_json())

    # -- media ------------------------------------------------------------------------------------------

    async def tick(self, pcm: bytes | None = None) -> None:
        """20 ms of call: play one frame, send one frame up."""
        if self._queue:
            frame = self._queue.popleft()
            self.played = frame.timestamp + frame.samples
            self.heard += frame.payload
        codec = Codec.of_rate(self.state.rate_hz)
        payload = bytes(2 * codec.frame_samples) if pcm is None else pcm
        flags = Flag.FLUSHED.value if self._flushed else 0
        up = AudioFrame(codec.value, flags, self.epoch, self._seq, self._timestamp, payload, self.played)
        self._seq += 1
        self._timestamp += up.samples
        await self.nats.publish(subjects.audio(self.agent.org, self.gw, self.wk, self.call, "up"), pack(up))

    async def run(self, ms: int, pcm: bytes = b"", *, tick_s: float = 0.004) -> None:
        """`ms` of call, five times as fast as real time; `pcm` is what the caller says, then silence."""
        size = 2 * Codec.of_rate(self.state.rate_hz).frame_samples
        for number in range(ms // 20):
            frame = pcm[number * size : (number + 1) * size]
            await self.tick(frame if len(frame) == size else None)
            await asyncio.sleep(tick_s)

    async def run_until(self, done: Callable[[], bool], *, limit_s: float = 5.0) -> None:
        """Silence until `done()`; TimeoutError when it does not come true."""
        async with asyncio.timeout(limit_s):
            while not done():
                await self.tick()
                await asyncio.sleep(0.004)

    async def until(self, done: Callable[[], bool], *, limit_s: float = 5.0) -> None:
        """Wait, without sending anything, for a command or frame that makes `done()` true."""
        async with asyncio.timeout(limit_s):
            while not done():
                self._changed.clear()
                await self._changed.wait()

    async def until_ready(self) -> None:
        """The worker reported `ready` for the present epoch."""
        await self.until(lambda: any(isinstance(c, Ready) and c.epoch == self.epoch for c in self.commands))

    def commanded(self, kind: str) -> list[Any]:
        """The commands of one kind so far."""
        return [command for command in self.commands if command.kind == kind]

    async def _on_command(self, msg: Msg) -> None:
        command = leg_command_decoder().decode(msg.data)
        self.commands.append(command)
        error = self.refuse.get(command.kind, "") if command is not None else "not understood"
        await msg.respond(CommandReply(ok=not error, error=error).to_json())
        self._changed.set()

    async def _on_frame(self, msg: Msg) -> None:
        frame = unpack(msg.data)
        self.frames.append(frame)
        if frame.epoch == self.epoch:
            if frame.flags & Flag.FLUSH:
                self._flush_seq = max(self._flush_seq, frame.seq)
                self._queue = deque(queued for queued in self._queue if queued.seq > frame.seq)
                self._flushed = True
            elif frame.payload and frame.seq > self._flush_seq:
                self._queue.append(frame)
                self._flushed = False
        self._changed.set()
