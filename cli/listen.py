"""Hearing a live call: partial transcripts and audio, which are published only while somebody renews a lease."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import ValidationError

from cli.bus import connected
from cli.errors import CliError
from libs.contracts import subjects
from libs.contracts.commands import CommandReply, Listen
from libs.contracts.frame import AudioFrame, FrameError, unpack
from libs.contracts.live import PARTIAL, PartialTranscript
from libs.runtime.tasks import stop_if_cancelled

LEASE_S = 10.0
RENEW_S = 4.0
AGAIN_S = 0.25  # the call is not there yet, or the bus is away
LEG_TIMEOUT_S = 2.0

OnPartial = Callable[[PartialTranscript], None]
OnFrame = Callable[[str, AudioFrame], None]
"""Takes `up` or `out`, and the frame, in the order in which the gateway sent them."""


class Listener:
    """Listens to one call from `run` until it is cancelled; a bus that went away is waited for.

    `on_frame` is None for whoever only reads.
    """

    def __init__(self, address: str, org: str, call: str, on_partial: OnPartial, on_frame: OnFrame | None) -> None:
        self._address, self._org, self._call = address, org, call
        self._on_partial, self._on_frame = on_partial, on_frame
        self._leg = subjects.control(org, call, "leg")
        self._by = f"tap-{os.getpid()}-{secrets.token_hex(4)}"  # taps of several machines have one pid now and then
        self.is_heard = asyncio.Event()  # a lease was granted

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        task = asyncio.create_task(self.run(), name="listening")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            stop_if_cancelled()
            with suppress(CliError, nats.errors.Error, OSError):
                async with connected(self._address) as client:
                    await self._listen(client)
            await asyncio.sleep(AGAIN_S)

    async def _listen(self, client: Client) -> None:
        await client.subscribe(subjects.live(self._org, self._call, PARTIAL), cb=self._partial)
        if self._on_frame is not None:
            audio = subjects.audio(self._org, subjects.ANY, subjects.ANY, self._call, "*")
            await client.subscribe(audio, cb=self._frame)
        await client.flush()
        await client.flush()  # the first one's answer may overtake the subscriptions
        try:
            while not client.is_closed:
                stop_if_cancelled()
                is_there = await self._renew(client)
                await asyncio.sleep(RENEW_S if is_there else AGAIN_S)
        finally:
            with suppress(nats.errors.Error, OSError):
                await client.publish(self._leg, Listen(by=self._by, lease_s=0.001).to_json())
                await client.flush()

    async def _renew(self, client: Client) -> bool:
        """Whether the call's leg granted it."""
        lease = Listen(by=self._by, lease_s=LEASE_S).to_json()
        try:
            answer = await client.request(self._leg, lease, timeout=LEG_TIMEOUT_S)
            granted = CommandReply.model_validate_json(answer.data).ok
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError, ValidationError):
            return False
        if granted:
            self.is_heard.set()
        return granted

    async def _partial(self, message: Msg) -> None:
        with suppress(ValidationError):  # of something newer
            self._on_partial(PartialTranscript.model_validate_json(message.data))

    async def _frame(self, message: Msg) -> None:
        direction = message.subject.rpartition(".")[2]
        if direction == "dn" or self._on_frame is None:
            return
        with suppress(FrameError):
            self._on_frame(direction, unpack(message.data))
