"""An agent that says what a test tells it and keeps what it hears: each direction of a call is proved for itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from pydantic import TypeAdapter

from libs.audio.resample import Resampler
from libs.contracts import subjects
from libs.contracts.commands import AgentCommand, Command, CommandReply, LegCommand
from libs.contracts.frame import AudioFrame, Codec, Flag, pack, unpack
from libs.contracts.offer import Offer
from tests.support.fake_worker import FakeWorker

LEAD_S = 0.1
Told = TypeVar("Told", bound=Command)
_AGENT_COMMAND: TypeAdapter[Command] = TypeAdapter(AgentCommand)


class RecordingAgent(FakeWorker):
    """Takes every call. What it heard is at the call's own rate."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._heard_of: dict[str, list[AudioFrame]] = defaultdict(list)
        self._came = asyncio.Condition()
        self._seq: dict[str, int] = defaultdict(int)

    async def next_call(self) -> Offer:
        """The next call that comes."""
        async with asyncio.timeout(15):
            return await self.offers.get()

    def forget_calls(self) -> None:
        """Calls that nobody took note of."""
        for queue in (self.offers, self.told):
            while not queue.empty():
                queue.get_nowait()

    async def hears(self, offer: Offer, seconds: float = 0.02, timeout_s: float = 15) -> None:
        """Wait until so much more audio of this call has come."""
        frames = self._heard_of[offer.call]
        wanted = len(frames) + round(seconds / 0.02)
        async with asyncio.timeout(timeout_s), self._came:
            await self._came.wait_for(lambda: len(frames) >= wanted)

    def heard(self, offer: Offer, since_frame: int = 0) -> bytes:
        """What the other side said; silence where it sent nothing."""
        return b"".join(frame.payload for frame in self._heard_of[offer.call][since_frame:])

    def frames_of(self, offer: Offer) -> int:
        """How many frames have come."""
        return len(self._heard_of[offer.call])

    async def say(self, offer: Offer, pcm_8k: bytes) -> None:
        """Say this at the pace of speech; returns when its last frame is on its way."""
        rate_hz = offer.state.rate_hz
        pcm = pcm_8k if rate_hz == 8000 else Resampler(8000, rate_hz).process(pcm_8k)
        codec = Codec.of_rate(rate_hz)
        size = 2 * codec.frame_samples
        clock = asyncio.get_running_loop().time
        begun_at = clock()
        for index, start in enumerate(range(0, len(pcm) - size + 1, size)):
            seq = self._seq[offer.call]
            self._seq[offer.call] += 1
            frame = AudioFrame(
                codec,
                Flag.TALKSPURT if index == 0 else 0,
                offer.epoch,
                seq,
                seq * codec.frame_samples,
                pcm[start : start + size],
            )
            self.bus.send_frame(subjects.audio(offer.org, offer.gw, self.wk, offer.call, "dn"), pack(frame))
            await asyncio.sleep(max(0, begun_at + index * 0.02 - LEAD_S - clock()))

    async def is_told(self, kind: type[Told]) -> Told:
        """The next command of this kind to the agent; others are skipped."""
        async with asyncio.timeout(5):
            while not isinstance(command := _AGENT_COMMAND.validate_json(await self.told.get()), kind):
                pass
        return command

    @asynccontextmanager
    async def saying(self, offer: Offer, pcm_8k: bytes) -> AsyncIterator[None]:
        """Say this over and over while the block runs."""

        async def forever() -> None:
            while True:
                await self.say(offer, pcm_8k)

        talking = self.later(forever())
        try:
            yield
        finally:
            talking.cancel()

    async def asks(self, offer: Offer, command: LegCommand) -> CommandReply:
        """Command the call's leg as its worker; the answer is yes."""
        reply = await self.command(offer, command)
        assert reply.ok, reply.error
        return reply

    async def _heard(self, msg) -> None:
        call = subjects.parse_audio(msg.subject).call
        async with self._came:
            self._heard_of[call].append(unpack(msg.data))
            self._came.notify_all()
