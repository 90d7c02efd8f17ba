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
    DtmfReceived,
    Event,
    ToolCalled,
    ToolReturned,
    UsageReported,
)
from libs.contracts.offer import Offer
from libs.runtime.bus import Bus
from libs.runtime.log import get_logger
from services.ai_session import language
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.port import (
    BackendError,
    BackendEvent,
    CallerTranscript,
    Lost,
    Opening,
    SessionExpires,
    SpeechBackend,
    UsageCounted,
)
from services.ai_session.bridge import Bridge
from services.ai_session.history import Conversation, rebuild
from services.ai_session.instruments import OPENING, connection_closed, connection_opened
from services.ai_session.journal import Journal
from services.ai_session.reconnects import Losses, Patience
from services.ai_session.resume import read_events
from services.ai_session.tools import ToolCaller, ToolDirectory

log = get_logger()

OPENING_PATIENCE_S = 2.0  # for servers that refuse: another worker may have more luck within the gateway's deadline
RECONNECT_PATIENCE_S = 5.0  # of a caller who hears nothing
RECONNECT_TIMEOUT_S = 3.0  # of one attempt
TAIL_S = 2.0  # how long received speech may go on playing before a lost connection is replaced

LEAVE_S = 2.0  # for what a connection still owes that was left at a pause

_CONVERSATION = (CallerSpoke, CallerTurn, AgentText, AgentTurn, DtmfReceived, ToolCalled, ToolReturned)


class Connection:
    """One of a call's model connections. `expires_at` is the event loop's clock; infinite when nobody told."""

    def __init__(self, plan: BackendPlan, emit: Callable[[Connection, BackendEvent], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._emit = emit
        self.opened_at = self._loop.time()
        self.expires_at = float("inf")
        self.backend = plan.make(self._take)

    def _take(self, event: BackendEvent) -> None:
        if isinstance(event, SessionExpires):
            self.expires_at = min(self.expires_at, self._loop.time() + event.in_s)
        else:
            self._emit(self, event)


class ModelLink:
    """One call's model connections, one after the other. `emit` gets the events of the present one.

    Of one that was left at a pause, what is still owed counts: transcripts and usage.
    """

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
        self._leaving: Connection | None = None
        self.present: Connection | None = None

    @property
    def backend(self) -> SpeechBackend | None:
        """The present connection's."""
        return self.present.backend if self.present is not None else None

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
        languages = language.instruction(offer.agent.languages)
        self._instructions = "\n\n".join(text for text in (filling.result(), languages) if text)
        await self._open_patiently(conversation, OPENING_PATIENCE_S, None, urgent=offer.resume is not None)
        return conversation

    async def replace(self, lost: Lost, journal: Journal) -> Conversation:
        """After a loss: let what was received play, then open another connection with the conversation so far.

        Raises:
            BackendError: the model's server could not be had, or drops every connection.
        """
        self._leaving, self.present = self.present, None
        if self._leaving is not None:
            await self.leave(self._leaving, settled=True)
        may_replace = self._losses.may_replace(self._bridge.playout.played, self._loop.time())
        await self._let_tail_play()
        why = lost.detail or f"the model connection was lost ({lost.code})"
        if not lost.retry:
            raise BackendError("failed", why, retry=False)
        if not may_replace:
            raise BackendError("failed", f"the model's server drops every connection: {why}", retry=False)
        conversation = self._so_far(journal)
        await self._open_patiently(conversation, RECONNECT_PATIENCE_S, RECONNECT_TIMEOUT_S, urgent=True)
        return conversation

    async def open_next(self, journal: Journal) -> Connection:
        """Another connection with the conversation so far, beside the present one, which goes on.

        Raises:
            BackendError: it could not be had.
        """
        connection = Connection(self._plan, self._on_event)
        try:
            async with asyncio.timeout(RECONNECT_TIMEOUT_S):
                await self._open_connection(connection, self._so_far(journal), urgent=True)
        except TimeoutError:
            sentence = f"the model session was not open after {RECONNECT_TIMEOUT_S:g} s"
            raise BackendError("unreachable", sentence, retry=True) from None
        return connection

    def go_over(self, before: Connection, after: Connection) -> bool:
        """From here on `after` serves the call; False when `before` was lost or replaced in the meantime."""
        if self.present is not before or not self._bridge.swap(after.backend):
            return False
        self.present, self._leaving = after, before
        self._losses.opened(self._bridge.playout.played, self._loop.time())
        return True

    async def leave(self, before: Connection, *, settled: bool) -> None:
        """Close a connection that serves no more; if it still owes something, a little later."""
        try:
            if not settled:
                await asyncio.sleep(LEAVE_S)
        finally:
            await self._shut(before)  # some servers tell with their last word what the session cost
            if self._leaving is before:
                self._leaving = None

    async def close(self) -> None:
        """Close the connection, if there is one."""
        self._bridge.attach(None)
        if self.present is not None:
            await self._shut(self.present)

    async def _open_patiently(
        self, conversation: Conversation, patience_s: float, timeout_s: float | None, *, urgent: bool
    ) -> None:
        row = Patience(patience_s, self._loop.time())
        while True:
            limit_s = None if timeout_s is None else min(timeout_s, row.left_s(self._loop.time()))
            try:
                async with asyncio.timeout(limit_s):
                    return await self._open_present(conversation, urgent=urgent)
            except BackendError as error:
                failure = error
            except TimeoutError:
                if limit_s is None:
                    raise
                failure = BackendError("unreachable", f"the model session was not open after {limit_s:g} s", retry=True)
            urgent = False  # what took several connections took the spare ones, too, and nobody may have noticed yet
            pause_s = row.pause_s(self._loop.time())
            if pause_s is None or not failure.retry:
                raise failure
            log.warning("the model session did not open, trying again", problem=str(failure), pause_s=pause_s)
            await asyncio.sleep(pause_s)

    async def _open_present(self, conversation: Conversation, *, urgent: bool) -> None:
        connection = self.present = Connection(self._plan, self._on_event)
        await self._open_connection(connection, conversation, urgent=urgent)
        self._bridge.attach(connection.backend)
        self._losses.opened(self._bridge.playout.played, self._loop.time())

    async def _open_connection(self, connection: Connection, conversation: Conversation, *, urgent: bool) -> None:
        backend, began_at, outcome = self._offer.agent.backend, self._loop.time(), "given_up"
        try:
            descriptions = await self._tools.descriptions(self._offer.agent)
            opening = Opening(self._instructions, descriptions, conversation.items, urgent)
            await connection.backend.open(opening)
            outcome = "opened"
            connection_opened(connection, backend)
        except BaseException as error:  # nothing is swallowed: a cancelled opening closes its connection, too
            outcome = error.kind if isinstance(error, BackendError) else outcome
            await self._shut(connection)
            raise
        finally:
            OPENING.observe(self._loop.time() - began_at, backend, outcome)

    async def _shut(self, connection: Connection) -> None:
        connection_closed(connection, self._offer.agent.backend)
        await connection.backend.close()

    def _on_event(self, connection: Connection, event: BackendEvent) -> None:
        owed = connection is self._leaving and isinstance(event, CallerTranscript | UsageCounted)
        if connection is self.present or owed:  # a predecessor's late event concerns nobody
            self._emit(event)

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
