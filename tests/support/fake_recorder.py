"""A scripted recorder: takes every call that it is asked to record, keeps what it hears, and renews its lease."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import nats.errors

from libs.contracts import subjects
from libs.contracts.commands import CommandReply, Listen
from libs.contracts.frame import unpack
from libs.contracts.ids import new_process_id
from libs.contracts.recording import RecordReply, RecordRequest
from libs.runtime.bus import Bus
from libs.runtime.tasks import stop_if_cancelled

RENEW_S = 0.1


class FakeRecorder:
    """`async with FakeRecorder(url)`. `over` is set when the call's gateway has said that it is over."""

    def __init__(self, url: str, *, accepts: bool = True) -> None:
        self._url, self._accepts = url, accepts
        self.requests: list[RecordRequest] = []
        self.said = bytearray()
        self.ticks = 0  # of what the caller heard meanwhile: a file's time goes by these
        self.over = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> FakeRecorder:
        self._bus = await Bus.connect(self._url, new_process_id("rec"))
        subject = subjects.rpc("recorder", "record")
        await self._bus.control.subscribe(subject, "recorder", cb=self._asked)
        await self._bus.subscribed()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bus.close()

    async def _asked(self, msg) -> None:
        request = RecordRequest.model_validate_json(msg.data)
        self.requests.append(request)
        if self._accepts:
            audio = subjects.audio(request.org, subjects.ANY, subjects.ANY, request.call, "*")
            await self._bus.media.subscribe(audio, cb=self._heard)
            await self._bus.subscribed()
            self._tasks.add(asyncio.create_task(self._renew(request)))
        await msg.respond(RecordReply(accepted=self._accepts, by="rec", reason="no room").to_json())

    async def _heard(self, msg) -> None:
        if msg.subject.endswith(".up"):
            self.said += unpack(msg.data).payload
        elif msg.subject.endswith(".out"):
            self.ticks += 1

    async def _renew(self, request: RecordRequest) -> None:
        leg = subjects.control(request.org, request.call, "leg")
        renewal = Listen(by="rec", is_recorder=True, lease_s=1.5).to_json()
        while not self.over.is_set():
            stop_if_cancelled()
            with suppress(nats.errors.Error):
                reply = CommandReply.model_validate_json(await self._bus.request(leg, renewal, 0.5))
                if not reply.details.get("recording"):
                    self.over.set()
            await asyncio.sleep(RENEW_S)
