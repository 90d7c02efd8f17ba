"""The moment after a call: nothing is said or heard any more, but what the model still owes is stored.

A caller's last words are transcribed, and a response's usage is told, up to a second after the line is closed. What was
heard of the last sentence is settled at once, by the gateway's count; for the rest the session lingers, `LINGER_S` at
most.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.ai_session.backends.port import BackendEvent, CallerTranscript, ResponseStarted, UsageCounted
from services.ai_session.bridge import Bridge
from services.ai_session.model_link import ModelLink
from services.ai_session.outstanding import Outstanding

LINGER_S = 2.0


class Settlement:
    """One per session. `outstanding` is fed by the session from the call's first event on."""

    def __init__(self, bridge: Bridge, model: ModelLink, outstanding: Outstanding) -> None:
        self._bridge = bridge
        self._model = model
        self._outstanding = outstanding
        self._done = asyncio.Event()
        self.is_running = False

    def begin(self, played: int | None, *, is_served: bool, now: float) -> bool:
        """The call is over, `played` samples of this epoch were heard. Whether there is something to wait for.

        A session that is not served (not ready, or its model is lost) has nothing to come, but for what was heard.
        """
        bridge = self._bridge
        bridge.attach(None)
        self.is_running = True
        if played is not None and bridge.playout.busy:
            bridge.playout.flush()  # nobody is told: this only makes the ledger final
            for event in bridge.playout.heard(played, flushed=True):
                bridge.do(bridge.turn.on_playout(event, now), now)
        if not is_served:
            return False
        for response in tuple(self._outstanding.responses):  # some are over at once
            self._cancel(response)
        return bool(self._outstanding)

    def take(self, event: BackendEvent, now: float) -> None:
        """An event of the model after the call's end."""
        match event:
            case CallerTranscript() | UsageCounted():
                self._bridge.on_event(event, now)
            case ResponseStarted(response):
                self._cancel(response)
            case _:
                pass
        self.check()

    def tool_done(self, tool_call_id: str) -> None:
        """A tool has returned."""
        self._outstanding.tool_done(tool_call_id)
        self.check()

    def check(self) -> None:
        """Something has come, or a tool has returned: perhaps that was all."""
        if self.is_running and not self._outstanding:
            self._done.set()

    def _cancel(self, response: str) -> None:
        if self._model.backend is not None:
            self._model.backend.cancel_response(response)

    async def wait(self) -> None:
        """Until nothing is owed any more, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._done.wait()
