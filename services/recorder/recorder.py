"""The recorder's shell: takes calls to record, stores what was recorded, answers who wants to hear it."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from nats.aio.msg import Msg
from pydantic import ValidationError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from libs.contracts import subjects
from libs.contracts.events import RecordingStored, event_id
from libs.contracts.recording import RecordReply, RecordRequest
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.object_store.store import ObjectStore, ObjectStoreError
from libs.runtime.bus import Bus
from libs.runtime.log import bound, get_logger
from libs.runtime.outbox import EventOutbox
from libs.runtime.respond import respond
from services.recorder.recording import Recording
from services.recorder.spool import HEADER_BYTES, Label, Left, left_behind, remove, require_room

log = get_logger()

SERVICE = "recorder"
STORE_PATIENCE_S = 60.0  # at a time; what is not stored by then is tried again with the leftovers
LEFTOVERS_EVERY_S = 60.0
PIECE_BYTES = 512 << 10  # of an answer: the bus takes a megabyte
READ_BYTES = 1 << 20


class Recorder:
    """Serves until `stopping`; then every recording is closed and stored."""

    def __init__(self, bus: Bus, outbox: EventOutbox, store: ObjectStore, spool: Path, capacity: int) -> None:
        self.id = bus.process_id
        self._bus, self._outbox, self._store = bus, outbox, store
        self._spool, self._capacity = spool, capacity
        self._recordings: dict[str, Recording] = {}
        self._numbers = itertools.count(1)
        self._is_draining = False
        self._told: set[str] = set()  # files without a readable label
        self._tasks: asyncio.TaskGroup | None = None
        self.counters: Counter[str] = Counter()

    @property
    def active(self) -> int:
        """Calls being recorded."""
        return len(self._recordings)

    async def run(self, stopping: asyncio.Event, listening: Callable[[], None] = lambda: None) -> None:
        """Record calls until `stopping`."""
        control = self._bus.control
        subscriptions = [
            await control.subscribe(subjects.rpc(SERVICE, "record"), SERVICE, cb=self._on_request),
            await control.subscribe(subjects.rpc(SERVICE, "read"), SERVICE, cb=self._query(self._read)),
        ]
        await self._bus.subscribed()
        async with asyncio.TaskGroup() as self._tasks:
            leftovers = self._tasks.create_task(self._store_leftovers_forever(), name="leftovers")
            listening()
            await stopping.wait()
            self._is_draining = True
            for subscription in subscriptions:
                await subscription.unsubscribe()
            for recording in self._recordings.values():
                recording.stop()
            leftovers.cancel()

    # -- recording ------------------------------------------------------------------------------------------

    async def _on_request(self, msg: Msg) -> None:
        try:
            request = RecordRequest.model_validate_json(msg.data)
        except ValidationError as error:
            self.counters["malformed"] += 1
            log.warning("a request was not understood", problem=str(error.errors(include_url=False)[0]["msg"]))
            return
        reply = self._decide(request)
        if msg.reply:
            await msg.respond(reply.to_json())

    def _decide(self, request: RecordRequest) -> RecordReply:
        if self._is_draining or self._tasks is None:
            return self._refuse("this recorder is about to end")
        if request.call in self._recordings:
            return RecordReply(accepted=True, by=self.id)
        if self.active >= self._capacity:
            return self._refuse(
                f"this recorder has {self._capacity} calls: start another one, or raise RECORDER_CAPACITY"
            )
        try:
            require_room(self._spool)
        except OSError as error:
            self.counters["broken"] += 1
            return self._refuse(f"this recorder cannot write to {self._spool} (RECORDER_SPOOL): {error.strerror}")
        part = f"{datetime.now(UTC):%H%M%S}-{self.id}-{next(self._numbers)}"
        recording = Recording(self._bus, request, part, self._spool)
        self._recordings[request.call] = recording
        self._tasks.create_task(self._record(recording), name=f"recording-{request.call}")
        self.counters["begun"] += 1
        return RecordReply(accepted=True, by=self.id)

    def _refuse(self, reason: str) -> RecordReply:
        self.counters["refused"] += 1
        return RecordReply(accepted=False, by=self.id, reason=reason)

    async def _record(self, recording: Recording) -> None:
        with bound(call=recording.call):
            try:
                file = await recording.run()
            except Exception as error:  # the top of a recording: its file stays, the others go on
                self.counters["broken"] += 1
                log.exception("the recording broke", problem=repr(error))
                return
            finally:
                del self._recordings[recording.call]
                self.counters.update({f"frames_{kind}": count for kind, count in recording.counters.items()})
            if file is None:
                log.info("nothing was heard, nothing is stored")
                return
            size = HEADER_BYTES + file.data_bytes
            try:
                await self._keep(Left(file.path, file.label, file.duration_ms, size))
            finally:
                file.close()

    async def _keep(self, file: Left) -> None:
        """Store a file that is locked, tell of it, remove it; one that cannot be stored stays where it is."""
        try:
            await self._upload(file.path, file.label)
        except (ObjectStoreError, OSError) as error:
            self.counters["not_stored"] += 1
            log.error("the recording stays in the spool", file=file.path.name, problem=str(error))
            return
        label = file.label
        self._outbox.put(
            RecordingStored(
                event_id=event_id(label.call, f"rec-{label.part}", 1),
                org=label.org,
                call=label.call,
                at=datetime.now(UTC),
                key=label.key,
                part=label.part,
                started_at=datetime.fromisoformat(label.started_at),
                duration_ms=file.duration_ms,
                rate_hz=label.rate_hz,
                size_bytes=file.size_bytes,
                is_complete=label.is_complete,
            )
        )
        self.counters["stored"] += 1
        self.counters["stored_bytes"] += file.size_bytes
        log.info("recording stored", key=label.key, seconds=round(file.duration_ms / 1000, 1))
        await asyncio.to_thread(remove, file.path)

    @retry(
        retry=retry_if_exception_type(ObjectStoreError),
        wait=wait_random_exponential(0.5, max=10),
        stop=stop_after_delay(STORE_PATIENCE_S),
        reraise=True,
    )
    async def _upload(self, path: Path, label: Label) -> None:
        async with self._store.writer(label.key, "audio/wav") as writer:
            with path.open("rb") as file:
                while data := file.read(READ_BYTES):
                    await writer.write(data)

    async def _store_leftovers_forever(self) -> None:
        """What a killed recorder left in the spool, and what could not be stored."""
        while True:
            found = left_behind(self._spool, self._unreadable)
            while left := await asyncio.to_thread(next, found, None):
                log.info("a recording was left in the spool", file=left.path.name)
                await self._keep(left)
            await asyncio.sleep(LEFTOVERS_EVERY_S)

    def _unreadable(self, path: Path) -> None:
        """Told once: it is found at every look."""
        if path.name not in self._told:
            self._told.add(path.name)
            self.counters["not_stored"] += 1
            log.error("a recording in the spool is not stored: its label cannot be read", file=path.name)

    # -- queries ----------------------------------------------------------------------------------------------

    def _query(self, answer: Callable[[RpcRequest], Awaitable[RpcReply]]) -> Callable[[Msg], Awaitable[None]]:
        async def handle(msg: Msg) -> None:
            if self._tasks is not None:
                self._tasks.create_task(self._answer(msg, answer))

        return handle

    async def _answer(self, msg: Msg, answer: Callable[[RpcRequest], Awaitable[RpcReply]]) -> None:
        try:
            reply = await answer(RpcRequest.model_validate_json(msg.data or b"{}"))
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            reply = RpcReply(ok=False, error=f"the query was not understood: {error}")
        except ObjectStoreError as error:
            reply = RpcReply(ok=False, error=str(error))
        await respond(self._bus, msg, reply)

    async def _read(self, request: RpcRequest) -> RpcReply:
        """A piece of a recording: parameters `key`, `offset`; data `base64`, `size_bytes`, `next` (null at the end)."""
        key, offset = str(request.parameters["key"]), int(request.parameters.get("offset", 0))
        if not key.startswith("recordings/") or request.org not in (None, key.split("/")[1]):
            return RpcReply(ok=False, error="that is no recording of this organisation")
        piece, size_bytes = await self._store.get_range(key, offset, PIECE_BYTES)
        after = offset + len(piece)
        return RpcReply(
            ok=True,
            data={
                "base64": base64.b64encode(piece).decode(),
                "size_bytes": size_bytes,
                "next": after if after < size_bytes else None,
            },
        )
