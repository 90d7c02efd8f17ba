"""A call goes over to a fresh model session before the server ends the present one: the shell around `rotation`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from libs.runtime.log import get_logger
from services.ai_session.backends.port import BackendError, Lost
from services.ai_session.bridge import Bridge
from services.ai_session.floor import Phase
from services.ai_session.journal import Journal
from services.ai_session.model_link import Connection, ModelLink
from services.ai_session.outstanding import Outstanding
from services.ai_session.rotation import Rotation, Step

log = get_logger()

EXPIRING = "session_expiring"


class Renewal:
    """One per session; without `session_max_s` its connections last as long as the call."""

    def __init__(
        self,
        session_max_s: float | None,
        model: ModelLink,
        bridge: Bridge,
        outstanding: Outstanding,
        journal: Journal,
        counters: Counter[str],
    ) -> None:
        self._rotation = Rotation(session_max_s) if session_max_s is not None else None
        self._model, self._bridge, self._outstanding = model, bridge, outstanding
        self._journal, self._counters = journal, counters
        self._loop = asyncio.get_running_loop()
        self._seen: Connection | None = None

    def tick(self, now: float, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """About ten times a second; what needs waiting is given to `spawn`."""
        present = self._model.present
        if self._rotation is None or present is None:
            return
        if present is not self._seen:
            self._seen = present
            self._rotation.opened(present.opened_at)
            self._rotation.expires(present.expires_at - present.opened_at, present.opened_at)
        match self._rotation.look(now, quiet=self._is_quiet(), settled=not self._outstanding):
            case Step.OPEN:
                spawn(self._go_over(self._rotation, present))
            case Step.FORCE:
                self._counters["rotations_forced"] += 1
                detail = "the model's session is about to reach its longest duration, and no pause came"
                self._bridge.on_event(Lost(EXPIRING, detail), now)
            case None:
                pass

    def _is_quiet(self) -> bool:
        bridge = self._bridge
        listening = bridge.turn.phase is Phase.LISTENING and not bridge.playout.busy
        return listening and not self._outstanding.is_caller_speaking

    async def _go_over(self, rotation: Rotation, before: Connection) -> None:
        """Make before break: nothing waits between the look at the pause and the exchange."""
        began_at = self._loop.time()
        try:
            after = await self._model.open_next(self._journal)
        except BackendError as error:
            self._counters["rotations_failed"] += 1
            log.warning("the next model session could not be opened", problem=str(error))
            rotation.given_up(self._loop.time(), failed=True)
            return
        now, settled = self._loop.time(), not self._outstanding
        quiet = rotation.may_swap(now, quiet=self._is_quiet(), settled=settled)
        if not quiet or not self._model.go_over(before, after):
            self._counters["rotations_postponed"] += 1
            rotation.given_up(now, failed=False)
            await self._model.leave(after, settled=True)
            return
        self._counters["rotated"] += 1
        lasted_s, took_ms = now - before.opened_at, (now - began_at) * 1000
        log.info("the call went over to a fresh model session", lasted_s=round(lasted_s, 1), took_ms=round(took_ms))
        await self._model.leave(before, settled=settled)
