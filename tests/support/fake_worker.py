"""A scripted AI worker: speaks the call protocol, knows no model. For tests of whatever stands opposite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats.errors

from libs.contracts import subjects
from libs.contracts.commands import Command, CommandReply, Ready
from libs.contracts.frame import AudioFrame, Codec, Flag, pack, unpack
from libs.contracts.heartbeat import WorkerHeartbeat
from libs.contracts.ids import new_process_id
from libs.contracts.offer import Offer, OfferReply, Release
from libs.runtime.bus import Bus

Script = Callable[["FakeWorker", Offer], "OfferReply | None"]


def accept(worker: FakeWorker, offer: Offer) -> OfferReply:
    """Take the call; `ready` follows at once."""
    worker.later(worker.command(offer, Ready(epoch=offer.epoch)))
    return OfferReply(accepted=True, wk=worker.wk, epoch=offer.epoch)


def accept_unready(worker: FakeWorker, offer: Offer) -> OfferReply:
    """Take the call and never get ready."""
    return OfferReply(accepted=True, wk=worker.wk, epoch=offer.epoch)


def refuse(worker: FakeWorker, offer: Offer) -> OfferReply:
    """Say no."""
    return OfferReply(accepted=False, wk=worker.wk, epoch=offer.epoch, reason="full")


def never(worker: FakeWorker, offer: Offer) -> None:
    """Leave the offer without an answer."""


class FakeWorker:
    """`async with FakeWorker(url)`: heartbeats until left. What it was told stands in the queues."""

    def __init__(self, url: str, *, on_offer: Script = accept, late_s: float = 0, capacity: int = 5) -> None:
        self._url = url
        self.on_offer = on_offer
        self.late_s = late_s
        self.capacity = capacity
        self.wk = new_process_id("wk")
        self.offers: asyncio.Queue[Offer] = asyncio.Queue()
        self.releases: asyncio.Queue[Release] = asyncio.Queue()
        self.replies: asyncio.Queue[CommandReply] = asyncio.Queue()
        self.told: asyncio.Queue[bytes] = asyncio.Queue()
        self.frames: list[AudioFrame] = []
        self.frozen = False
        self.unsent = 0
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> FakeWorker:
        self.bus = bus = await Bus.connect(self._url, self.wk)
        await bus.control.subscribe(subjects.offer(self.wk), cb=self._offered)
        await bus.control.subscribe(subjects.release(self.wk), cb=self._released)
        await bus.control.subscribe(subjects.control("*", "*", "agent"), cb=self._told)
        await bus.media.subscribe(subjects.worker_uplink(self.wk), cb=self._heard)
        await bus.control.flush()
        await bus.media.flush()
        self._beating = self.later(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bus.close()

    def later(self, work) -> asyncio.Task:
        """Run something beside the handlers."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(task.exception(), nats.errors.Error):
            self.unsent += 1  # the server was away, or the leg is gone: the script goes on

    def die(self) -> None:
        """As SIGKILL does: both sockets closed, not a word more."""
        self.frozen = True
        self._beating.cancel()
        for client in (self.bus.media, self.bus.control):
            client.options["allow_reconnect"] = False
            client._transport.close()

    async def _beat(self) -> None:
        while True:
            if not self.frozen and self.bus.control.is_connected:
                beat = WorkerHeartbeat(wk=self.wk, calls=0, capacity=self.capacity)
                await self.bus.control.publish(subjects.worker_heartbeat(self.wk), beat.to_json())
            await asyncio.sleep(0.1)

    async def _offered(self, msg) -> None:
        offer = Offer.model_validate_json(msg.data)
        self.offers.put_nowait(offer)
        if self.frozen:
            return
        if self.late_s:
            await asyncio.sleep(self.late_s)
        if (reply := self.on_offer(self, offer)) is not None:
            await msg.respond(reply.to_json())

    async def _released(self, msg) -> None:
        self.releases.put_nowait(Release.model_validate_json(msg.data))

    async def _told(self, msg) -> None:
        self.told.put_nowait(msg.data)

    async def _heard(self, msg) -> None:
        self.frames.append(unpack(msg.data))

    async def command(self, offer: Offer, command: Command) -> CommandReply:
        """Command the leg of an offered call; also kept in `replies`."""
        subject = subjects.control(offer.org, offer.call, "leg")
        reply = CommandReply.model_validate_json(await self.bus.request(subject, command.to_json(), 1))
        self.replies.put_nowait(reply)
        return reply

    def says(
        self, offer: Offer, seq: int, pcm: bytes = b"\x01\x10" * 160, *, flush: bool = False, end: bool = False
    ) -> bool:
        """Send one downlink frame."""
        flags = Flag.FLUSH if flush else Flag.END_OF_RESPONSE if end else 0
        codec = Codec.of_rate(offer.state.rate_hz)
        frame = AudioFrame(codec, flags, offer.epoch, seq, seq * codec.frame_samples, b"" if flush else pcm)
        return self.bus.send_frame(subjects.audio(offer.org, offer.gw, self.wk, offer.call, "dn"), pack(frame))
