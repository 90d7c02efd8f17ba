"""One call that is being recorded: its subscription, its lease, its file; around `StereoTrack` and `Spooled`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg

from libs.audio.stereo import StereoTrack
from libs.contracts import subjects, wire
from libs.contracts.commands import CommandReply, Listen
from libs.contracts.events import CallRecording
from libs.contracts.frame import FrameError, unpack
from libs.contracts.recording import RecordRequest
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from libs.runtime.tasks import stop_if_cancelled
from services.recorder.spool import HEADER_EVERY_S, Label, Spooled

log = get_logger()

LEASE_S = 1.5
RENEW_S = 0.5
LEG_TIMEOUT_S = 0.7
GIVE_UP_S = 15.0  # without a word or a frame of the call: its gateway is gone


class Recording:
    """Runs until the leg says that it is over, the gateway is gone, or `stop`."""

    def __init__(self, bus: Bus, request: RecordRequest, part: str, spool: Path) -> None:
        self._bus, self._request, self._spool = bus, request, spool
        self.part = part
        self._track = StereoTrack(request.rate_hz)
        self._file: Spooled | None = None
        self._problem: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._over = asyncio.Event()
        self._events = wire.event_decoder()
        self.counters: Counter[str] = Counter()

    @property
    def call(self) -> str:
        """Whose it is."""
        return self._request.call

    def stop(self) -> None:
        """End the recording; another recorder may go on."""
        self._over.set()

    async def run(self) -> Spooled | None:
        """Record; the finished file, still locked, or None when nothing was heard.

        Raises:
            OSError: the spool could not be written; what it took until then stays there.
        """
        request, bus = self._request, self._bus
        audio = subjects.audio(request.org, subjects.ANY, subjects.ANY, request.call, "*")
        ended, changed = (subjects.event(request.org, request.call, kind) for kind in ("call.ended", "call.recording"))
        listening = [
            await bus.media.subscribe(audio, cb=self._on_frame),
            await bus.control.subscribe(ended, cb=self._on_end),
            await bus.control.subscribe(changed, cb=self._on_change),
        ]
        await bus.subscribed()  # before the lease: from then on there is something to hear
        try:
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self._renew_forever())
                flushing = tasks.create_task(self._flush_forever())
                await self._over.wait()
                renewing.cancel()
                flushing.cancel()
        finally:
            for subscription in listening:
                if not bus.control.is_closed:
                    await subscription.unsubscribe()
            await self._give_back()
            self._finish()
        if self._problem is not None:
            raise self._problem
        return self._file

    # -- the call ---------------------------------------------------------------------------------------

    async def _on_frame(self, msg: Msg) -> None:
        """A frame of the call, in the order in which the gateway sent it. Never waits."""
        direction = msg.subject.rpartition(".")[2]
        if direction == "dn" or self._problem is not None:
            return
        try:
            frame = unpack(msg.data)
        except FrameError as error:
            self.counters[error.reason] += 1
            return
        self._heard_at = self._loop.time()
        if direction == "up":
            self._track.caller(frame.payload)
            return
        stereo = self._track.heard(frame.seq, frame.payload)
        if stereo:
            with self._ending_it():
                self._open().add(stereo)

    def _open(self) -> Spooled:
        if self._file is None:
            request, now = self._request, datetime.now(UTC)
            label = Label(request.org, request.call, self.part, request.rate_hz, now.isoformat())
            self._file = Spooled.create(self._spool, label)
        return self._file

    async def _on_end(self, _: Msg) -> None:
        self._over.set()

    async def _on_change(self, msg: Msg) -> None:
        event = self._events.decode(msg.data)
        if isinstance(event, CallRecording) and event.state == "stopped":
            self._over.set()

    # -- time ---------------------------------------------------------------------------------------------

    async def _renew_forever(self) -> None:
        leg = subjects.control(self._request.org, self._request.call, "leg")
        renewal = Listen(by=self._bus.process_id, is_recorder=True, lease_s=LEASE_S).to_json()
        while True:
            stop_if_cancelled()
            try:
                reply = CommandReply.model_validate_json(await self._bus.request(leg, renewal, LEG_TIMEOUT_S))
            except (nats.errors.Error, ValueError, OSError):
                if self._loop.time() - self._heard_at > GIVE_UP_S:
                    log.warning("the call is gone without its end", call=self.call)
                    self._over.set()
            else:
                if not reply.ok or not reply.details.get("recording"):
                    self._over.set()
                    return
            await asyncio.sleep(RENEW_S)

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(HEADER_EVERY_S)
            with self._ending_it():
                if self._file is not None:
                    self._file.flush()

    async def _give_back(self) -> None:
        """Tell the leg at once, so that another recorder can go on without waiting for the lease's end."""
        leg = subjects.control(self._request.org, self._request.call, "leg")
        farewell = Listen(by=self._bus.process_id, is_recorder=True, lease_s=0.001)
        try:
            await self._bus.control.publish(leg, farewell.to_json())
        except (nats.errors.Error, OSError):
            return

    def _finish(self) -> None:
        self.counters.update(self._track.counters)
        if self._file is None:
            return
        with self._ending_it():
            self._file.add(self._track.rest())
            if self._problem is None:
                self._file.complete()
            else:
                self._file.flush()
        if self._problem is not None:
            with self._ending_it():
                self._file.close()

    @contextmanager
    def _ending_it(self) -> Iterator[None]:
        """A spool that cannot be written ends the recording."""
        try:
            yield
        except OSError as error:
            self._problem = self._problem or error
            self._over.set()
