"""The shell around `Listening`: finds recorders, keeps the leases' time, turns `out` frames on and off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from libs.call_leg.audio import CallAudio
from libs.call_leg.journal import CallJournal
from libs.call_leg.listening import AskRecorder, Listening, Wish
from libs.call_leg.recorders import ask_recorder
from libs.contracts.commands import Listen
from libs.contracts.recording import RecordRequest
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger

log = get_logger()

ASK_TIMEOUT_S = 0.8


class Audience:
    """One per call; `tasks` is the call's TaskGroup while it runs. `changed` is called when the session should know."""

    def __init__(
        self,
        bus: Bus,
        audio: CallAudio,
        journal: CallJournal,
        request: Callable[[], RecordRequest],
        changed: Callable[[], object],
    ) -> None:
        self._bus, self._audio, self._journal = bus, audio, journal
        self._request, self._changed = request, changed
        self._loop = asyncio.get_running_loop()
        self._listening = Listening()
        self._timer: asyncio.TimerHandle | None = None
        self._has_warned = False
        self.tasks: asyncio.TaskGroup | None = None
        self.answered_at: datetime | None = None

    @property
    def is_recording(self) -> bool:
        """The call is to be recorded: what the session is told and the callers were."""
        return self._listening.is_wanted

    @property
    def is_watched(self) -> bool:
        """Somebody follows the call live."""
        return self._listening.is_watched

    def begin(self, *, record: bool) -> None:
        """The call is answered; `record` is its agent's policy."""
        self.answered_at = datetime.now(UTC)
        if record:
            self.record(True)

    def record(self, wanted: bool) -> None:
        """Record from now on, or stop."""
        was_wanted = self.is_recording
        self._do(self._listening.record(wanted, self._loop.time()))
        if was_wanted != wanted:
            self._changed()

    def listen(self, command: Listen) -> dict[str, object]:
        """Take a lease; the details of the reply."""
        watched = self.is_watched
        until = self._loop.time() + command.lease_s
        self._do(self._listening.lease(command.by, until, is_recorder=command.is_recorder))
        if watched != self.is_watched:
            self._changed()
        return {"recording": self._listening.keeps(command.by) if command.is_recorder else self.is_recording}

    def end(self) -> None:
        """The call is over, or nothing of it is on the bus any more."""
        self._do(self._listening.record(False, self._loop.time()))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        watched = self.is_watched
        self._do(self._listening.expire(self._loop.time()))
        if watched != self.is_watched:
            self._changed()

    def _do(self, wishes: list[Wish]) -> None:
        for wish in wishes:
            if not isinstance(wish, AskRecorder):
                self._journal.recording(wish.state, wish.by)
            elif self.tasks is not None:
                self.tasks.create_task(self._ask())
        self._audio.is_overheard = self._listening.is_heard
        if self._timer is not None:
            self._timer.cancel()
        due = self._listening.deadline()
        self._timer = self._loop.call_at(due, self._expire) if due is not None else None

    async def _ask(self) -> None:
        problem = await ask_recorder(self._bus, self._request(), ASK_TIMEOUT_S)
        if problem is not None and not self._has_warned:  # it is asked again every second
            self._has_warned = True
            log.warning("the call is not recorded yet", problem=problem)
