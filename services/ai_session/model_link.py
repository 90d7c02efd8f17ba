"""The session's connection to its model: opened, replaced when it is lost, closed. The conversation outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from libs.contracts.events import (
    AgentText,
    AgentTurn,
    CallerSpoke,
    CallerTurn,
    Event,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from libs.contracts.offer import Offer
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.port import BackendError, BackendEvent, Lost, Opening, SpeechBackend
from services.ai_session.bridge import Bridge
from services.ai_session.history import Conversation, rebuild
from services.ai_session.journal import Journal
from services.ai_session.reconnects import Losses, Patience
from services.ai_session.resume import read_events
from services.ai_session.tools import ToolCaller, ToolDirectory

log = get_logger()

OPENING_PATIENCE_S = 2.0  # for servers that refuse: another worker may have more luck within the gateway's deadline
RECONNECT_PATIENCE_S = 5.0  # of a caller who hears nothing
RECONNECT_TIMEOUT_S = 3.0  # of one attempt
TAIL_S = 2.0  # how long received speech may go on playing before a lost connection is replaced

_CONVERSATION = (CallerSpoke, CallerTurn, AgentText, AgentTurn, ToolCalled, ToolReturned)


class ModelLink:
    """One call's model connections, one after the other. `emit` gets the events of the present one only."""

    def __init__(
        self,
        offer: Offer,
        plan: BackendPlan,
        tools: ToolDirectory,
        bridge: Bridge,
        emit: Callable[[BackendEvent], None],
    ) -> None:
        self._offer, self._plan, self._tools, self._bridge, self._emit = offer, plan, tools, bridge, emit
        self._loop = asyncio.get_running_loop()
        self._past: list[Event] = []
        self._instructions = ""
        self._losses = Losses()
        self.backend: SpeechBackend | None = None

    @property
    def spent_usd(self) -> float:
        """What the call had cost before this session took it over."""
        return sum(event.cost_usd or 0.0 for event in self._past if isinstance(event, UsageReported))

    async def open(self, bus: Bus, caller: ToolCaller) -> Conversation:
        """Open the first connection.

        Raises:
            BackendError: the model's server could not be had.
        """
        offer, conversation = self._offer, Conversation()
        async with asyncio.TaskGroup() as both:
            filling = both.create_task(caller.fill(offer.agent.prompt))
            if offer.resume is not None:
                self._past = await read_events(bus.js, offer.org, offer.call)
                conversation = rebuild(self._past, offer.resume.played)
                log.info("conversation rebuilt", items=len(conversation.items), go_on=conversation.go_on.value)
        self._instructions = filling.result()
        await self._open_patiently(conversation, OPENING_PATIENCE_S, None)
        return conversation

    async def replace(self, lost: Lost, journal: Journal) -> Conversation:
        """After a loss: let what was received play, then open another connection with the conversation so far.

        Raises:
            BackendError: the model's server could not be had, or drops every connection.
        """
        if self.backend is not None:
            await self.backend.close()
        may_replace = self._losses.may_replace(self._bridge.playout.played, self._loop.time())
        await self._let_tail_play()
        why = lost.detail or f"the model connection was lost ({lost.code})"
        if not lost.retry:
            raise BackendError("failed", why, retry=False)
        if not may_replace:
            raise BackendError("failed", f"the model's server drops every connection: {why}", retry=False)
        conversation = self._so_far(journal)
        await self._open_patiently(conversation, RECONNECT_PATIENCE_S, RECONNECT_TIMEOUT_S)
        return conversation

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._bridge.attach(None)
        if self.backend is not None:
            await self.backend.close()

    async def _open_patiently(self, conversation: Conversation, patience_s: float, timeout_s: float | None) -> None:
        row = Patience(patience_s, self._loop.time())
        while True:
            limit_s = None if timeout_s is None else min(timeout_s, row.left_s(self._loop.time()))
            try:
                async with asyncio.timeout(limit_s):
                    return await self._open_backend(conversation)
            except BackendError as error:
                failure = error
            except TimeoutError:
                if limit_s is None:
                    raise
                failure = BackendError("unreachable", f"the model session was not open after {limit_s:g} s", retry=True)
            pause_s = row.pause_s(self._loop.time())
            if pause_s is None or not failure.retry:
                raise failure
            log.warning("the model session did not open, trying again", problem=str(failure), pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _open_backend(self, conversation: Conversation) -> None:
        descriptions = await self._tools.descriptions(self._offer.agent)
        backend: SpeechBackend | None = None

        def emit(event: BackendEvent) -> None:
            if backend is self.backend:  # a predecessor's late event concerns nobody
                self._emit(event)

        backend = self._plan.make(emit)
        self.backend = backend
        try:
            await backend.open(Opening(self._instructions, descriptions, conversation.items))
        except BaseException:  # nothing is swallowed: a cancelled opening closes its connection, too
            await backend.close()
            raise
        self._bridge.attach(backend)
        self._losses.opened(self._bridge.playout.played, self._loop.time())

    async def _let_tail_play(self) -> None:
        """What was received may be heard to its end, if that is near; else it is cut, so that the ledger is exact."""
        bridge = self._bridge
        for limit_s in (TAIL_S, 1.0):
            if not bridge.playout.busy:
                return
            bridge.drained.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await bridge.drained.wait()
                    return
            bridge.flush()

    def _so_far(self, journal: Journal) -> Conversation:
        resume = self._offer.resume
        events = [*self._past, *(event for event in journal.events if isinstance(event, _CONVERSATION))]
        played = dict(resume.played) if resume is not None else {}
        return rebuild(events, played | {self._offer.epoch: self._bridge.playout.played})
