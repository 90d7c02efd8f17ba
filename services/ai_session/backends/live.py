"""OpenAI Live (`gpt-live-1`) over WebSocket: the shell around `live_events`, `live_turns` and `live_tools`.

The model is full duplex and owns its turns; `live_turns` makes of its streams what the session knows from other
backends. Audio passes in the trunk's codec. The stream never pauses, so a server that sends nothing for `STALL_S` is
gone. Input never pauses either: what the call has no audio for (a hold) is sent as silence.
"""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import msgspec
import picows

from libs.audio.g711 import Law
from libs.audio.samples import WholeSamples
from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from services.ai_session.backends import live_config
from services.ai_session.backends.arrivals import Arrivals, unopened
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.live_events import (
    AgentWords,
    AskedApplication,
    AudioArrived,
    CallerWords,
    Closed,
    Delegated,
    LiveEvent,
    LiveEvents,
    SecondsUsed,
    Started,
)
from services.ai_session.backends.live_tools import FunctionCalled, LiveTools, ResponseOver
from services.ai_session.backends.live_turns import Comment, LiveTurns, Out
from services.ai_session.backends.port import (
    BackendError,
    Capabilities,
    Emit,
    Lost,
    Opening,
    SessionExpires,
    ToolRequested,
    Trouble,
    UsageCounted,
)
from services.ai_session.backends.realtime_errors import closed, loss, refused
from services.ai_session.backends.realtime_events import ErrorReceived
from services.ai_session.backends.realtime_link import Endpoint, connect
from services.ai_session.costs import RunningTotal
from services.ai_session.phrases import Wish

log = get_logger()

STARTED_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 0.5
STALL_S = 4.0
_FILL_AFTER_S = 0.2
_FILL_AT_MOST_S = 0.5
_APPEND_HEAD = b'{"type":"session.input_audio.append","audio":"'
_APPEND_TAIL = b'"}'
_json = msgspec.json.Encoder()

CAPABILITIES = Capabilities(server_interrupts=True, truncate=False, owns_turns=True)


@dataclass(frozen=True, slots=True)
class LiveEndpoint(Endpoint):
    """Where the Live API is, and the chat model that its sessions delegate to."""

    chat_model: str = "gpt-5.6-luna"
    session_max_s: float = 7200.0

    @classmethod
    def beside(cls, realtime: Endpoint, model: str = "gpt-live-1", chat_model: str = "gpt-5.6-luna") -> LiveEndpoint:
        """The same server and account as the Realtime API's."""
        where = realtime
        return cls(
            where.base_url, where.api_key, model, where.models, where.counters, tls=where.tls, chat_model=chat_model
        )

    def url(self, model: str) -> str:
        """The WebSocket address; the model goes into `session.start` (API reference, `live.connect`)."""
        base = self.base_url.rstrip("/")
        if base.startswith("http"):
            base = "ws" + base[len("http") :]
        return f"{base}/live/sessions"


def plan_live(endpoint: LiveEndpoint, offer: Offer) -> BackendPlan:
    """The Live API for this call.

    Raises:
        UnsupportedAgentError: the agent's document wants what Live cannot do.
    """
    live_config.check(offer.agent)
    limit = f"live {offer.agent.model or endpoint.model}"
    return BackendPlan(CAPABILITIES, lambda emit: LiveBackend(endpoint, offer, emit), endpoint.session_max_s, limit)


class LiveBackend:
    """One connection for one call; see `SpeechBackend`."""

    capabilities = CAPABILITIES

    def __init__(self, endpoint: LiveEndpoint, offer: Offer, emit: Emit) -> None:
        agent, state = offer.agent, offer.state
        self._endpoint, self._offer, self._emit = endpoint, offer, emit
        self._model = agent.model or endpoint.model
        self._chat_model = str(agent.backend_options.get("chat_model") or endpoint.chat_model)
        wanted = live_config.wire_format(state)
        self._format = (str(wanted["type"]), int(wanted["rate"]))
        self._law = {"audio/pcmu": Law.PCMU, "audio/pcma": Law.PCMA}.get(self._format[0])
        self._silence = bytes(state.rate_hz // 50 * 2)
        self._whole = WholeSamples()
        self._events, self._tools = LiveEvents(), LiveTools()
        self._turns = LiveTurns(state.rate_hz, agent.turns.silence_ms or 500, token_hex(3))
        self._seconds = RunningTotal()
        self._loop = asyncio.get_running_loop()
        self._transport: picows.WSTransport | None = None
        self._arrivals = Arrivals[LiveEvent](self._events, self._take, endpoint.counters, self._loop.time())
        self._session, self._started_at = "", 0.0
        self._fed_at = self._loop.time()
        self._closed_by: tuple[int | None, str] = (None, "")
        self._ended_because = ""
        self._over = False
        self._sent = 0
        self.behind = False

    # -- opening ----------------------------------------------------------------------------------------

    async def open(self, opening: Opening) -> None:
        """See the port: connect, start the session with its history, check the codec."""
        endpoint = self._endpoint
        await connect(endpoint, self._model, self)
        try:
            start = live_config.session(self._offer, opening, self._model, self._chat_model, endpoint.models)
            self._send({"type": "session.start", "session": start})
            await self._await_start()
        except BackendError:
            await self.close()
            raise
        if "delegation" in start:
            for item in live_config.replay(opening.history):
                self._send({"type": "response.item.create", "item": item})
        for event in self._arrivals.opened():
            if isinstance(event, ErrorReceived) and (lost := loss(event)) is not None:
                raise unopened(lost)
            self._take(event)

    async def _await_start(self) -> None:
        try:
            async with asyncio.timeout(STARTED_TIMEOUT_S):
                while True:
                    match await self._arrivals.next():
                        case ErrorReceived() as error:
                            raise refused(error)
                        case Started() as started:
                            return self._started(started)
                        case _:
                            pass
        except TimeoutError:
            detail = f"no session.started came within {STARTED_TIMEOUT_S:g} s"
            raise BackendError("unreachable", detail, retry=True) from None

    def _started(self, started: Started) -> None:
        if started.audio_format != self._format:
            wanted, got = (f"{kind or '?'} at {rate_hz} Hz" for kind, rate_hz in (self._format, started.audio_format))
            raise BackendError(
                "failed", f"the call needs {wanted}, but the model's server insists on {got}", retry=False
            )
        self._session, self._started_at = started.session, self._loop.time()
        self._arrivals.heard_at = self._fed_at = self._started_at
        if started.expires_at:
            self._emit(SessionExpires(max(0.0, started.expires_at - time.time())))

    # -- called by the listener -------------------------------------------------------------------------

    def connected(self, transport: picows.WSTransport) -> None:
        """The upgrade succeeded."""
        self._transport = transport

    def received(self, data: bytes) -> None:
        """A whole message."""
        self._arrivals.received(data, self._loop.time())

    def closing(self, code: int, reason: str) -> None:
        """The server says goodbye. 1000 and 1001 are losses, too: the call is not over."""
        self._closed_by = (code, reason)

    def disconnected(self) -> None:
        """The connection is gone, whoever closed it."""
        if self._ended_because:
            # `content`: a filter ended the session, and would end the next one; the rest is no verdict on the call.
            detail = f"the model's server ended the session ({self._ended_because})"
            lost = Lost(f"session_{self._ended_because}", detail, retry=self._ended_because != "content")
        else:
            lost = closed(*self._closed_by)
        self._lose(lost)

    def _lose(self, lost: Lost) -> None:
        if self._over:
            return
        self._over = True
        self._endpoint.counters[f"lost_{lost.code}"] += 1
        if self._arrivals.lost(lost):
            return
        if not self._ended_because and self._started_at:  # nobody will tell what the session cost
            self._count_seconds(self._loop.time() - self._started_at)
        self._emit(lost)

    def _take(self, event: LiveEvent) -> None:
        match event:
            case SecondsUsed(seconds):  # the last of them comes while the session closes
                self._count_seconds(seconds)
            case Closed(reason):
                self._ended_because = reason or "closed"
            case _ if self._over:
                pass
            case AudioArrived(data):
                now = self._loop.time()
                self._do(self._turns.audio(self._decode(data), now))
                self._do(self._turns.tick(now, busy=self._tools.is_busy))
            case AgentWords(text, _, end_ms):
                self._do(self._turns.said(text, end_ms))
            case CallerWords(text, start_ms):
                self._do(self._turns.heard(text, start_ms, self._loop.time()))
            case Delegated():
                self._tools.delegated()
            case AskedApplication(delegation):
                words = live_config.NOTHING_TO_ASK
                self._send({"type": "session.commentary.append", "content": words, "delegation_id": delegation})
            case FunctionCalled(tool_call_id, name, arguments):
                self._tools.called(tool_call_id)
                self._emit(ToolRequested(self._session, tool_call_id, name, arguments))
            case ResponseOver():
                self._response_over(event)
            case ErrorReceived():
                self._error(event)
            case Started():
                pass

    def _response_over(self, event: ResponseOver) -> None:
        if event.tokens:
            model = event.model or self._chat_model
            cost_usd = self._endpoint.models.cost_of_response(model, event.tokens)
            self._emit(UsageCounted("response", model, event.response, event.tokens, None, cost_usd))
        if event.failed:
            self._emit(Trouble("delegation_failed", event.failed))
        if self._tools.over():
            self._send({"type": "response.create"})

    def _error(self, error: ErrorReceived) -> None:
        self._endpoint.counters["error_events"] += 1
        lost = loss(error)
        if lost is not None:
            self._lose(lost)
        else:
            self._emit(Trouble(error.code, error.message))

    def _count_seconds(self, total: float) -> None:
        seconds = self._seconds.grown_to(total)
        if seconds > 0:
            cost_usd = self._endpoint.models.cost_of_session(self._model, seconds)
            self._emit(UsageCounted("session", self._model, self._session, {}, seconds, cost_usd))

    def _do(self, out: Iterable[Out]) -> None:
        for one in out:
            if isinstance(one, Comment):
                for piece in one.pieces:
                    self._send({"type": "session.commentary.append", "content": piece, "delegation_id": None})
            elif not self._over:
                self._emit(one)

    # -- the session's wishes -----------------------------------------------------------------------------

    def feed(self, pcm: bytes) -> bool:
        """20 ms of the caller as one `append`; silence while an agent speaks that may not be interrupted."""
        if self.behind or self._transport is None or self._over:
            return False
        if self._turns.is_talking and not self._offer.agent.turn_taking.interruptible:
            pcm = bytes(len(pcm))
        self._append(pcm)
        self._fed_at = self._loop.time()
        self._do(self._turns.caller(pcm, self._fed_at))
        return True

    def _append(self, pcm: bytes) -> None:
        assert self._transport is not None
        audio = b2a_base64(self._law.encode(pcm) if self._law is not None else pcm, newline=False)
        self._transport.send(picows.WSMsgType.TEXT, _APPEND_HEAD + audio + _APPEND_TAIL)

    def start_response(self, wish: Wish) -> None:
        """`session.commentary.append`, when nothing is being said."""
        if not self._over and self._transport is not None:
            self._do(self._turns.ask(live_config.commentary(wish), self._loop.time()))

    def cancel_response(self, response: str) -> None:
        """Live cannot be stopped: what still comes of it is not passed on."""
        self._do(self._turns.give_up(response, self._loop.time()))

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """The model knows what it has said."""

    def delete_item(self, item: str) -> None:
        """The model has no items."""

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """Hand in an output; the chat model goes on when all of a response's outputs are in."""
        self._send({"type": "response.item.create", "item": live_config.tool_output(tool_call_id, output)})
        if self._tools.returned(tool_call_id):
            self._send({"type": "response.create"})

    def tick(self, now: float) -> None:
        """Words and answers that are due, silence where the call has nothing to send, a server that is gone."""
        if self._over or self._transport is None:
            return
        self._do(self._turns.tick(now, busy=self._tools.is_busy))
        missing_s = min(now - self._fed_at, _FILL_AT_MOST_S)
        if missing_s > _FILL_AFTER_S and not self.behind:
            for _ in range(int(missing_s * 50)):
                self._append(self._silence)
                self._do(self._turns.caller(self._silence, now))
            self._fed_at = now
        if now - self._arrivals.heard_at > STALL_S:
            self._lose(Lost("stalled", f"the model's server sent nothing for {STALL_S:g} s"))

    async def close(self) -> None:
        """Close the session, politely while the server answers: its last word is what the session cost."""
        self._over = True
        for kind, count in (*self._events.counters.items(), ("live_skipped_ms", self._turns.talk.skipped_ms)):
            self._endpoint.counters[f"events_{kind}"] += count
        self._events.counters.clear()
        transport, self._transport = self._transport, None
        if transport is None or transport.is_disconnected:
            return
        if self._arrivals.is_open:
            transport.send(picows.WSMsgType.TEXT, _json.encode({"type": "session.close"}))
        else:
            transport.send_close(picows.WSCloseCode.OK)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await transport.wait_disconnected()
        except (TimeoutError, picows.WSError, OSError):
            transport.disconnect(graceful=False)
        if not self._ended_because and self._started_at:  # it had no last word
            self._count_seconds(self._loop.time() - self._started_at)

    def _decode(self, data: bytes) -> bytes:
        return self._law.decode(data) if self._law is not None else self._whole.push(data)

    def _send(self, event: Mapping[str, Any]) -> None:
        if self._transport is not None and not self._transport.is_disconnected:
            self._sent += 1
            self._transport.send(picows.WSMsgType.TEXT, _json.encode({"event_id": f"event-{self._sent}", **event}))
