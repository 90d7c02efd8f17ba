"""OpenAI Realtime over WebSocket: the shell around `realtime_events`, `realtime_config` and `responses`.

The reader runs in picows' data callback and never waits, so that pongs and audio cannot pile up behind a
slow consumer. No audio moves before `session.updated` has named the codec in force. Reconnecting is the
session's business: this object serves one connection.
"""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import picows

from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from services.ai_session.backends import realtime_config
from services.ai_session.backends.arrivals import Arrivals, unopened
from services.ai_session.backends.port import (
    AudioDelta,
    BackendError,
    Capabilities,
    Emit,
    Lost,
    Opening,
    ResponseEnded,
    ResponseStarted,
    SessionExpires,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
    Trouble,
)
from services.ai_session.backends.realtime_errors import FATAL, HARMLESS, closed, loss, refused
from services.ai_session.backends.realtime_events import (
    ErrorReceived,
    OutputTaken,
    RealtimeEvents,
    ResponseCreated,
    SessionCreated,
    SessionUpdated,
    WireEvent,
)
from services.ai_session.backends.realtime_link import Endpoint, connect
from services.ai_session.backends.realtime_mcp import AnswerDue, ApprovalAsked
from services.ai_session.backends.realtime_refusals import without
from services.ai_session.backends.responses import STALL_S, Create, Refusal, Responses
from services.ai_session.backends.wire_audio import WireAudio
from services.ai_session.history import Said
from services.ai_session.phrases import Told, Wish, as_instructions

__all__ = ["Endpoint", "RealtimeBackend", "capabilities_of"]

log = get_logger()

CREATED_TIMEOUT_S = 2.0
UPDATED_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 0.5
MAX_RESPONSE_S = 300.0  # of audio; 4096 tokens, the most that an agent may allow, are 205 s

_APPEND_HEAD = b'{"type":"input_audio_buffer.append","audio":"'
_APPEND_TAIL = b'"}'
W = TypeVar("W", SessionCreated, SessionUpdated)
_json = msgspec.json.Encoder()


class RealtimeBackend:
    """One connection for one call; see `SpeechBackend`."""

    def __init__(self, endpoint: Endpoint, offer: Offer, emit: Emit) -> None:
        agent = offer.agent
        self._endpoint, self._offer, self._emit = endpoint, offer, emit
        self._model = agent.model or endpoint.model
        self._format = str(realtime_config.wire_format(offer.state)["type"])
        self._audio = WireAudio(self._format, offer.state.rate_hz)
        transcription = agent.transcription.model or endpoint.models.transcription
        self._events = RealtimeEvents(endpoint.models, self._model, transcription, self._audio.decode)
        self._responses = Responses()
        self._loop = asyncio.get_running_loop()
        self._transport: picows.WSTransport | None = None
        self._arrivals = Arrivals[WireEvent](self._events, self._take, endpoint.counters, self._loop.time())
        self._instructions = ""
        self._sent = 0
        self._closed_by: tuple[int | None, str] = (None, "")
        self._shortfalls: list[Trouble] = []  # what the call has to do without
        self._audio_bytes = 0  # of the present response
        self._over = False
        self.behind = False

    @property
    def capabilities(self) -> Capabilities:
        """Turns by the server's VAD; it interrupts itself unless the agent may not be interrupted."""
        return capabilities_of(self._offer)

    # -- opening ----------------------------------------------------------------------------------------

    async def open(self, opening: Opening) -> None:
        """See the port: connect, configure, check the codec, replay."""
        self._instructions = opening.instructions
        spares = self._endpoint.spares
        age_s = spares.adopt(self._model, self) if opening.urgent and spares is not None else None
        if age_s is None:
            await connect(self._endpoint, self._model, self)
        try:
            greeting = await self._await(SessionCreated, CREATED_TIMEOUT_S, "session.created")
            if isinstance(greeting, ErrorReceived):
                raise refused(greeting)
            await self._configure(opening)
        except BackendError:
            await self.close()
            raise
        for entry in opening.history:
            self._send({"type": "conversation.item.create", "item": realtime_config.item(entry)})
        early = self._arrivals.opened()
        if age_s is not None:
            self._emit(SessionExpires(self._endpoint.session_max_s - age_s))
        if greeting.expires_at is not None:
            self._emit(SessionExpires(greeting.expires_at - time.time()))
        for trouble in self._shortfalls:
            self._emit(trouble)
        if spares is not None:
            spares.served(self._model)
        for event in early:
            if isinstance(event, ErrorReceived) and (lost := loss(event)) is not None:
                self._over = True
                raise unopened(lost)
            self._take(event)

    async def _configure(self, opening: Opening) -> None:
        """Send the session's configuration until the server has it; what the call can do without may go."""
        offer, models = self._offer, self._endpoint.models
        tokens = self._endpoint.mcp_tokens
        update = realtime_config.session(
            offer.agent, self._model, models, offer.state, opening.instructions, opening.tools, mcp_tokens=tokens
        )
        format_attempts = 2
        while True:
            self._send({"type": "session.update", "session": update})
            answer = await self._await(SessionUpdated, UPDATED_TIMEOUT_S, "session.updated")
            if isinstance(answer, ErrorReceived):
                self._count("configuration_refused")
                dropped = None if answer.code in FATAL else without(update, answer.param, answer.message)
                if dropped is None:
                    raise refused(answer)
                log.warning("the model's server refused a part of the session", part=dropped, problem=answer.message)
                self._shortfalls.append(Trouble("configuration_refused", f"{dropped}: {answer.message}"))
                continue
            if answer.input_format == answer.output_format == self._format:
                return
            format_attempts -= 1
            if not format_attempts:
                raise BackendError(
                    "failed",
                    f"the call needs {self._format}, but the model's server insists on {answer.input_format or '?'} "
                    f"in and {answer.output_format or '?'} out",
                    retry=False,
                )

    async def _await(self, kind: type[W], timeout_s: float, name: str) -> W | ErrorReceived:
        """The next event of this kind, or an error event, whichever comes first."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    event = await self._arrivals.next()
                    if isinstance(event, kind | ErrorReceived):
                        return event
        except TimeoutError:
            garbage = self._events.counters["malformed"]
            frames = "1 frame that was" if garbage == 1 else f"{garbage} frames that were"
            but = f", but {frames} not understood" if garbage else ""
            raise BackendError("unreachable", f"no {name} came within {timeout_s:g} s{but}", retry=True) from None

    # -- called by the listener -------------------------------------------------------------------------

    def connected(self, transport: picows.WSTransport) -> None:
        """The upgrade succeeded."""
        self._transport = transport

    def received(self, data: bytes) -> None:
        """A whole message."""
        self._arrivals.received(data, self._loop.time())

    def closing(self, code: int, reason: str) -> None:
        """The server says goodbye."""
        self._closed_by = (code, reason)

    def disconnected(self) -> None:
        """The connection is gone, whoever closed it."""
        self._lose(closed(*self._closed_by))

    def _lose(self, lost: Lost) -> None:
        if self._over:
            return
        self._over = True
        self._count(f"lost_{lost.code}")
        if not self._arrivals.lost(lost):
            self._emit(lost)

    def _take(self, event: WireEvent) -> None:
        """Bookkeeping of what concerns responses; then the event goes to the session."""
        if self._over:
            return
        now, responses = self._loop.time(), self._responses
        match event:
            case ResponseCreated(response, metadata):
                self._audio.begin_response()
                self._audio_bytes = 0
                self._emit(ResponseStarted(response, responses.created(response, metadata)))
            case ErrorReceived():
                self._error(event, now)
            case SessionCreated() | SessionUpdated() | OutputTaken() | AnswerDue() | ApprovalAsked():
                self._settle(event, now)
            case AudioDelta(response, _, _, pcm):
                if self._may_take(response, len(pcm)):
                    self._emit(event)
            case SpeechStarted() | SpeechStopped():
                responses.caller_speaks(isinstance(event, SpeechStarted), now)
                self._emit(event)
            case ToolRequested(response, tool_call_id):
                responses.tool_called(response, tool_call_id)
                self._emit(event)
            case ResponseEnded(response):
                self._emit(event)
                self._create(responses.done(response, now))
            case _:
                self._emit(event)

    def _settle(
        self, event: SessionCreated | SessionUpdated | OutputTaken | AnswerDue | ApprovalAsked, now: float
    ) -> None:
        """What concerns nobody but the server and us."""
        match event:
            case OutputTaken(tool_call_id):
                self._responses.output_seen(tool_call_id)
            case AnswerDue():
                self._create(self._responses.answer_due(now))
            case ApprovalAsked(request):
                self._send({"type": "conversation.item.create", "item": realtime_config.disapproval(request)})
            case _:
                pass

    def _may_take(self, response: str, size: int) -> bool:
        """Reply audio waits in memory until it is heard: a server that never ends a response is stopped."""
        before, limit = self._audio_bytes, int(MAX_RESPONSE_S * 2 * self._offer.state.rate_hz)
        self._audio_bytes += size
        if self._audio_bytes <= limit:
            return True
        if before <= limit:
            self._emit(Trouble("response_too_long", f"more than {MAX_RESPONSE_S:g} s of audio came for one response"))
            self.cancel_response(response)
        self._count("audio_over_limit")
        return False

    def _error(self, error: ErrorReceived, now: float) -> None:
        self._count("error_events")
        lost = loss(error)
        if lost is not None:
            self._lose(lost)
            return
        if error.code in HARMLESS:
            return
        asked = error.event_id is not None or self._responses.is_in_flight
        match self._responses.refused(error.code, error.event_id, now):
            case Refusal.ELSEWHERE:
                self._emit(Trouble(error.code, error.message))
            case Refusal.FAILED:  # the turn machine repeats, pauses and counts, as for a response that began
                name = f"refused-{self._sent}"
                if not self._responses.is_active:
                    self._emit(ResponseStarted(name, asked))
                self._emit(ResponseEnded(name, "failed", f"{error.code}: {error.message}"))
            case Refusal.SETTLED:
                pass

    # -- the session's wishes -----------------------------------------------------------------------------

    def feed(self, pcm: bytes) -> bool:
        """20 ms of the caller as one `append`, built by hand: 50 of them a second per call."""
        if self.behind or self._transport is None or self._over:
            return False
        audio = b2a_base64(self._audio.encode(pcm), newline=False)
        self._transport.send(picows.WSMsgType.TEXT, _APPEND_HEAD + audio + _APPEND_TAIL)
        return True

    def start_response(self, wish: Wish) -> None:
        """Ask for a response when none is active. News are part of the conversation from now on."""
        if isinstance(wish, Told):
            self._send({"type": "conversation.item.create", "item": realtime_config.item(Said("user", wish.text))})
            wish = None
        self._create(self._responses.ask(as_instructions(wish), self._loop.time()))

    def cancel_response(self, response: str) -> None:
        """`response.cancel`; an answer that it was over already is harmless."""
        self._send({"type": "response.cancel", "response_id": response})

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """`conversation.item.truncate`."""
        self._send(
            {
                "type": "conversation.item.truncate",
                "item_id": item,
                "content_index": content_index,
                "audio_end_ms": audio_end_ms,
            }
        )

    def delete_item(self, item: str) -> None:
        """`conversation.item.delete`."""
        self._send({"type": "conversation.item.delete", "item_id": item})

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """Hand in an output; one response follows when all of a response's outputs are in."""
        self._send({"type": "conversation.item.create", "item": realtime_config.tool_output(tool_call_id, output)})
        self._create(self._responses.tool_output(tool_call_id, self._loop.time()))

    def tick(self, now: float) -> None:
        """Retries, and a server that owes an answer and says nothing."""
        self._create(self._responses.tick(now))
        if self._responses.is_waiting and now - self._arrivals.heard_at > STALL_S:
            self._lose(Lost("stalled", f"the model's server sent nothing for {STALL_S:g} s while a response was due"))

    async def close(self) -> None:
        """Close the connection, politely while it answers."""
        self._over = True
        for kind, count in self._events.counters.items():
            self._count(f"events_{kind}", count)
        self._events.counters.clear()
        transport, self._transport = self._transport, None
        if transport is None or transport.is_disconnected:
            return
        transport.send_close(picows.WSCloseCode.OK)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await transport.wait_disconnected()
        except (TimeoutError, picows.WSError, OSError):
            transport.disconnect(graceful=False)

    def _create(self, create: Create | None) -> None:
        if create is None:
            return
        response: dict[str, Any] = {"metadata": create.metadata}
        if create.instructions:  # they replace the session's for this response
            response["instructions"] = "\n\n".join(filter(None, (self._instructions, create.instructions)))
        self._arrivals.heard_at = self._loop.time()  # from here on an answer is due
        self._send({"type": "response.create", "event_id": create.event_id, "response": response})

    def _send(self, event: Mapping[str, Any]) -> None:
        """Send an event under an id, so that an error without one is known to be about the server's own doing."""
        if self._transport is not None and not self._transport.is_disconnected:
            self._sent += 1
            self._transport.send(picows.WSMsgType.TEXT, _json.encode({"event_id": f"event-{self._sent}", **event}))

    def _count(self, kind: str, count: int = 1) -> None:
        self._endpoint.counters[kind] += count


def capabilities_of(offer: Offer) -> Capabilities:
    """What the Realtime API does by itself for this call: see `realtime_config.turn_detection`."""
    turns = offer.agent.turns
    answers = turns.barge_in == "server"
    return Capabilities(server_interrupts=answers and turns.interruptible, answers=answers)
