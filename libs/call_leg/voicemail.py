"""A caller whom no agent serves leaves a message: recorded as any call is, by the recorder, without a leg.

The recorder asks the leg of a call whether to go on (`Listen`); here it is this object that answers in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from nats.aio.msg import Msg

from libs.call_leg.audio import CallAudio
from libs.call_leg.recorders import ask_recorder
from libs.contracts import subjects, wire
from libs.contracts.commands import CommandReply, Listen
from libs.contracts.recording import RecordRequest
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()

ASK_TIMEOUT_S = 1.0
GO_TIMEOUT_S = 2.0  # for the recorder to learn that it is over; it asks twice a second


class Voicemail:
    """One caller's message. `audio` is the call's, whose ticker runs."""

    def __init__(self, bus: Bus, audio: CallAudio, gw: str) -> None:
        self._bus, self._audio = bus, audio
        self._request = RecordRequest(
            call=audio.call, org=audio.org, gw=gw, rate_hz=50 * audio.frame_samples, answered_at=datetime.now(UTC)
        )
        self._decoder = wire.leg_command_decoder()
        self._is_on = False
        self._left = asyncio.Event()
        self._listens = asyncio.Event()

    async def take(self, said: Callable[[], Awaitable[None]]) -> bool:
        """Record until the caller has `said` it all; False when no recorder could be had."""
        subject = subjects.control(self._request.org, self._request.call, "leg")
        subscription = await self._bus.control.subscribe(subject, cb=self._on_command)
        await self._bus.subscribed()
        self._is_on = True
        try:
            problem = await ask_recorder(self._bus, self._request, ASK_TIMEOUT_S)
            if problem is not None:
                log.warning("no message can be left", problem=problem)
                return False
            await said()
            self._is_on = False
            try:
                async with asyncio.timeout(GO_TIMEOUT_S):
                    await self._left.wait()
            except TimeoutError:
                log.warning("the recorder of a message did not ask whether to go on", call=self._request.call)
            return self._listens.is_set()
        finally:
            self._is_on = self._audio.is_overheard = False
            if not self._bus.control.is_closed:
                await subscription.unsubscribe()

    async def _on_command(self, msg: Msg) -> None:
        command = self._decoder.decode(msg.data)
        if isinstance(command, Listen):
            self._audio.is_overheard = self._is_on
            self._listens.set()
            if not self._is_on:
                self._left.set()
            reply = CommandReply(ok=True, details={"recording": self._is_on})
        else:
            reply = CommandReply(ok=False, error="the caller leaves a message: no agent has the call")
        if msg.reply:
            await msg.respond(reply.to_json())
