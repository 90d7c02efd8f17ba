"""The Live API's side of one WebSocket (``gpt-live-1``), without I/O.

Theory of operation. From ``session.started`` on, the session speaks all the time, silence included, at real-time
pace: its clock is the audio that went out. It listens all the time as well, and owns the turns: a voice detection on
what arrives tells when the caller is done, and interrupts what is being said. There are no turn events, no cancel,
no truncation. What is said is decided by ``director``, as for a Realtime session, when the caller was silent, when a
client appends commentary, or when the tools of a delegated response have returned.
"""

from __future__ import annotations

import base64
import binascii
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from libs.audio.g711 import Law
from services.rehearsal.conversation import Item
from services.rehearsal.director import CallTool, Request, Say, direct
from services.rehearsal.faults import FaultPlan
from services.rehearsal.ground_truth import GroundTruth
from services.rehearsal.input_audio import InputBuffer, SpeechStarted
from services.rehearsal.live_audio import LiveAudio
from services.rehearsal.live_delegation import Delegations, history_items, place_of_call
from services.rehearsal.live_speaker import Speaker
from services.rehearsal.live_validation import (
    is_plain_live_append,
    validate_live_client_event,
    validate_session,
)
from services.rehearsal.outputs import Abort, Close, Frame, Output
from services.rehearsal.responses import Pace
from services.rehearsal.scenario import Scenario, ScenarioSet
from services.rehearsal.session_config import TurnDetection
from services.rehearsal.validation import ClientEventError, decode_client_event

_TURNS = TurnDetection(
    threshold=0.5,
    prefix_padding_ms=0,
    silence_duration_ms=500,
    idle_timeout_ms=None,
    create_response=True,
    interrupt_response=True,
)
_CHUNKS_MS = (20, 40, 60, 80, 100)
_WORDS_PER_DELTA = 3
_USAGE_EVERY_MS = 5000
_FOR_GOOD_S = 1e9
_NEVER_STARTED = "Send session.start first and wait for session.started."


class Voice(Protocol):
    """What the session needs of text to speech."""

    def pcm(self, text: str) -> bytes:
        """PCM16 at 8 kHz."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What the connection and the settings say about a session."""

    session_id: str
    expires_at: int = 0
    limit_s: float = 7200.0
    scenario: str | None = None
    pace: Pace = field(default_factory=Pace)
    transcription_delay_ms: float = 350.0


class LiveSession:
    """One session; the same interface as ``RealtimeSession``."""

    def __init__(  # noqa: PLR0913  the ports of a core
        self,
        options: LiveOptions,
        *,
        scenarios: ScenarioSet,
        voice: Voice,
        new_id: Callable[[str], str],
        rng: Random,
        faults: FaultPlan,
        check: Callable[[Frame], None] | None = None,
    ) -> None:
        self.truth = GroundTruth(options.session_id, model="gpt-live-1")
        self.closed = False
        self._options, self._scenarios, self._voice = options, scenarios, voice
        self._new_id, self._rng, self._faults, self._check = new_id, rng, faults, check
        self._session: Frame = {}
        self._conversation = self.truth.conversation
        self._audio: LiveAudio | None = None
        self._speaker: Speaker | None = None
        self._ear = InputBuffer("audio/pcmu", _TURNS)
        self._delegations = Delegations(new_id)
        self._began_at = 0.0
        self._resumes_at = 0.0  # after a stall
        self._chunk_ms = _CHUNKS_MS[0]
        self._usage_ms = 0
        self._turn_start_ms = 0
        self._muted = False
        self._delegated_turn = 0
        self._client_event_id: str | None = None
        self._scheduled: list[tuple[float, Callable[[float], None]]] = []
        self._out: list[Output] = []
        self._handlers: dict[str, Callable[[Frame, float], None]] = {
            "session.start": self._on_start,
            "session.update": self._on_update,
            "session.close": self._on_close,
            "session.input_audio.append": self._on_append,
            "session.input_audio.mute": self._on_mute,
            "session.input_audio.unmute": self._on_mute,
            "session.commentary.append": self._on_context,
            "session.instructions.append": self._on_context,
            "session.thinking.append": self._on_context,
            "response.item.create": self._on_item,
            "response.create": self._on_response_create,
        }

    # -- the core's interface --------------------------------------------------------------------------

    def start(self) -> list[Output]:
        """Nothing: the client speaks first."""
        return []

    def receive(self, event: Frame | str | bytes, now: float) -> list[Output]:
        """Handle one client event: an object, or the text of a frame. Faulty ones earn an ``error``."""
        fields: Any = event
        if self.closed:
            return []
        try:
            if isinstance(event, str | bytes):
                fields = decode_client_event(event)
            if not is_plain_live_append(fields):
                validate_live_client_event(fields)
            self._client_event_id = fields.get("event_id")
            self._handle(fields, now)
        except ClientEventError as error:
            event_id = fields.get("event_id") if isinstance(fields, dict) else None
            self._refuse(error, event_id if isinstance(event_id, str) else None)
        self._client_event_id = None
        return self._flush()

    def _handle(self, event: Frame, now: float) -> None:
        kind = event["type"]
        self.truth.client_events[kind] = self.truth.client_events.get(kind, 0) + 1
        handler = self._handlers.get(kind)
        if handler is None:
            raise ClientEventError(f"The rehearsal server does not take '{kind}'.", code="unsupported", param="type")
        if self._speaker is None and kind != "session.start":
            raise ClientEventError(_NEVER_STARTED, code="session_not_started", param="type")
        handler(event, now)

    def deadline(self) -> float | None:
        """When ``expire`` has something to do; never once the session is closed."""
        if self.closed:
            return None
        due = [at for at in (self._faults.deadline(), self._chunk_due_at()) if at is not None]
        due += [at for at, _ in self._scheduled[:1]]
        return min(due, default=None)

    def expire(self, now: float) -> list[Output]:
        """Send what is due."""
        for struck in self._faults.expire(now):
            self._append(struck)
        while self._scheduled and self._scheduled[0][0] <= now and not self.closed:
            self._scheduled.pop(0)[1](now)
        while (due_at := self._chunk_due_at()) is not None and due_at <= now and not self.closed:
            self._speak(now)
        return self._flush()

    def connection_lost(self, code: int | None, by: str) -> None:
        """Complete the record; ``by`` is "client" or "server"."""
        self.closed = True
        self.truth.appended_ms = self._ear.appended_ms
        if self.truth.closed is None:
            self.truth.closed = {"code": code, "by": by}

    # -- session ---------------------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario:
        return self._scenarios.choose(
            instructions=self._session.get("instructions") or "", query=self._options.scenario
        )

    def _on_start(self, event: Frame, now: float) -> None:
        if self._speaker is not None:
            raise ClientEventError("The session has started.", code="session_already_started", param="type")
        session = event["session"]
        validate_session(session)
        self._session = {**session, "id": self._options.session_id, "status": "active"}
        self._session["expires_at"] = self._options.expires_at
        self._faults.add(self.scenario.faults)
        audio_format = session["audio"]["format"]
        pcm = self._faults.take("pcm_instead")
        if pcm is not None:
            audio_format = {"type": "audio/pcm", "rate": 24000}
            if pcm.echo:
                self._session["audio"] = {**session["audio"], "format": audio_format}
        if self._faults.take("no_session_created") or self._faults.take("no_session_updated"):
            return
        self._audio = LiveAudio(audio_format)
        self._speaker = Speaker(self._audio)
        self.truth.scenario, self.truth.model = self.scenario.name, session["model"]
        self.truth.input_format = self.truth.output_format = self._audio.kind
        for item in history_items(session.get("input") or [], self._new_id):
            self._conversation.add(item)
        self._began_at = now
        self._emit({"type": "session.started", "session": self._session})
        self._at(now + self._options.limit_s, lambda _: self._end("expired"))

    def _on_update(self, event: Frame, now: float) -> None:
        delegation = event["session"].get("delegation")
        if delegation is not None:
            before = self._session.get("delegation") or {"type": "client"}
            if delegation["type"] != before["type"]:
                raise ClientEventError(
                    "The delegation type cannot change.", code="invalid_value", param="session.delegation.type"
                )
            merged = {**before, **delegation}
            if "responses" in before:
                merged["responses"] = {**before["responses"], **(delegation.get("responses") or {})}
            self._session["delegation"] = merged
        if "triggers" in event["session"]:
            self._session["triggers"] = event["session"]["triggers"]
        self._emit({"type": "session.updated", "session": self._session})

    def _on_close(self, event: Frame, now: float) -> None:
        self._end("close_requested")

    def _end(self, reason: str) -> None:
        self._emit({"type": "session.closed", "reason": reason, "session": self._session, "usage": self._usage()})
        self._append(Close(1000))

    # -- what the caller says --------------------------------------------------------------------------

    def _on_mute(self, event: Frame, now: float) -> None:
        self._muted = event["type"].endswith(".mute")
        self._emit({"type": f"session.input_audio.{'muted' if self._muted else 'unmuted'}"})

    def _on_append(self, event: Frame, now: float) -> None:
        assert self._audio is not None
        try:
            audio = base64.b64decode(event["audio"], validate=True)
            pcm = self._audio.heard(audio)
        except (binascii.Error, ValueError):
            raise ClientEventError(
                f"Invalid 'audio'. Expected base64-encoded {self._audio.kind}.", code="invalid_value", param="audio"
            ) from None
        for change in self._ear.append(Law.PCMU.encode(bytes(len(pcm)) if self._muted else pcm)):
            if isinstance(change, SpeechStarted):
                self._turn_start_ms = change.audio_start_ms
                self._interrupted()
            else:
                self._turn_ended(change.audio_end_ms - _TURNS.silence_duration_ms, now)
        self.truth.appended_ms = self._ear.appended_ms

    def _interrupted(self) -> None:
        assert self._speaker is not None
        for item in self._speaker.interrupt():
            self._conversation.delete(item.id)

    def _turn_ended(self, end_ms: int, now: float) -> None:
        audio_ms = self._ear.take_turn()
        item_id = self._new_id("item")
        body: Frame = {"id": item_id, "type": "message", "role": "user", "status": "completed", "content": []}
        item = Item(id=item_id, body=body, origin="caller", audio_ms=audio_ms)
        self._conversation.add(item)
        item.text = self.scenario.transcript(self._conversation.turn)
        self._faults.begin_turn(self._conversation.turn)
        times = {"audio_start_ms": self._turn_start_ms, "audio_end_ms": end_ms}
        self.truth.turns.append({"item_id": item_id, **times, "text": item.text})
        if self._faults.take("transcription_failed") is None:
            self._transcribe(item.text, self._turn_start_ms, end_ms, now)
        self._at(now + self._options.pace.first_byte_ms / 1000, lambda at: self._respond(Request(by_vad=True), at))

    def _transcribe(self, text: str, start_ms: int, end_ms: int, now: float) -> None:
        words = text.split(" ")
        for start in range(0, len(words) if text else 0, _WORDS_PER_DELTA):
            upto = min(len(words), start + _WORDS_PER_DELTA)
            delta = " ".join(words[start:upto]) + (" " if upto < len(words) else "")
            span = end_ms - start_ms
            frame = {
                "type": "session.input_transcript.delta",
                "delta": delta,
                "start_ms": start_ms + span * start // len(words),
                "end_ms": start_ms + span * upto // len(words),
            }
            at = now + self._options.transcription_delay_ms / 1000
            self._emit_at(at, frame)

    # -- what the model says ---------------------------------------------------------------------------

    def _on_context(self, event: Frame, now: float) -> None:
        delegation_id = event["delegation_id"]
        if delegation_id is not None and not self._delegations.is_clients(delegation_id):
            raise ClientEventError(
                "Non-null IDs are accepted for existing client delegations only.",
                code="invalid_value",
                param="delegation_id",
            )
        kind, position_ms = event["type"].split(".")[1], self._position_ms
        self._emit({"type": f"session.{kind}.appended", "start_ms": position_ms, "end_ms": position_ms})
        if kind != "commentary":
            return
        request = Request(instructions=event["content"], tools=self._tools)
        if delegation_id is not None:
            self._delegations.close(delegation_id)
            self._say(event["content"])
        else:
            self._at(now + self._options.pace.first_byte_ms / 1000, lambda at: self._respond(request, at))

    def _respond(self, request: Request, now: float) -> None:
        """Say and do what the scenario has for this moment."""
        if self._ear.speaking:  # the caller goes on: their turn will be answered
            return
        if self._delegation == "client" and not request.instructions and self._asks_application():
            return
        request = Request(instructions=request.instructions, by_vad=request.by_vad, tools=self._tools)
        calls: list[CallTool] = []
        for act in direct(self.scenario, self._conversation, request):
            if isinstance(act, Say):
                self._say(act.text)
            else:
                calls.append(act)
        if calls:
            self._delegate(calls, now)

    def _say(self, text: str) -> None:
        assert self._speaker is not None
        pcm = self._voice.pcm(text)
        item_id = self._new_id("item")
        body: Frame = {"id": item_id, "type": "message", "role": "assistant", "status": "completed", "content": []}
        item = Item(id=item_id, body=body, origin="model", text=text, audio=pcm, audio_ms=len(pcm) / 16)
        self._conversation.add(item)
        self._speaker.say(item, 0)

    def _chunk_due_at(self) -> float | None:
        if self._speaker is None:
            return None
        return max(self._resumes_at, self._began_at + (self._speaker.position_ms + self._chunk_ms) / 1000)

    def _speak(self, now: float) -> None:
        """The next chunk of the stream; a fault may hold the stream back, and what it holds back comes at once."""
        assert self._speaker is not None
        audio, words = self._speaker.chunk(self._chunk_ms)
        self._chunk_ms = self._rng.choice(_CHUNKS_MS)
        for fragment in words:
            times = {"start_ms": fragment.start_ms, "end_ms": fragment.end_ms}
            self._emit({"type": "session.output_transcript.delta", "delta": fragment.text, **times})
        if self._faults.has("odd_bytes") and self._faults.take("odd_bytes") is not None:
            audio = audio[:-1]
        self._emit({"type": "session.output_audio.delta", "delta": base64.b64encode(audio).decode()})
        stall = self._faults.take("stall") if self._faults.has("stall") else None
        if stall is not None:
            self._resumes_at = now + (stall.duration_ms / 1000 or _FOR_GOOD_S)
        if self._position_ms - self._usage_ms >= _USAGE_EVERY_MS:
            self._usage_ms = self._position_ms
            self._emit({"type": "session.usage.updated", "usage": self._usage()})

    @property
    def _position_ms(self) -> int:
        return self._speaker.position_ms if self._speaker is not None else 0

    def _usage(self) -> Frame:
        return {"seconds": self._position_ms / 1000}

    # -- delegation ------------------------------------------------------------------------------------

    @property
    def _tools(self) -> frozenset[str]:
        responses = (self._session.get("delegation") or {}).get("responses") or {}
        return frozenset(tool["name"] for tool in responses.get("tools") or [] if tool["type"] == "function")

    def _delegate(self, calls: list[CallTool], now: float) -> None:
        """Tool calls come from a Responses model that the session manages."""
        model = self._session["delegation"]["responses"]["model"]
        garbled = self._faults.take("invalid_arguments") is not None
        failed = self._faults.take("rate_limit") is not None
        frames, items = self._delegations.responses(calls, model, self._position_ms, garbled=garbled, failed=failed)
        for item in items:
            self._conversation.add(item)
        self._emit(frames[0])
        at = now + self._options.pace.tool_call_ms / 1000
        for frame in frames[1:]:
            self._emit_at(at, frame)

    @property
    def _delegation(self) -> str:
        return str((self._session.get("delegation") or {}).get("type", "client"))

    def _asks_application(self) -> bool:
        """A turn that needs tools is the application's, once; its commentary is the answer."""
        number = self._conversation.turn
        turn = self.scenario.turn(number)
        if turn is None or not turn.steps or number <= self._delegated_turn:
            return False
        self._delegated_turn = number
        self._emit(self._delegations.to_client(self._position_ms))
        return True

    def _on_item(self, event: Frame, now: float) -> None:
        self._needs_responses()
        item = event["item"]
        kind = item.get("type", "message")
        if kind == "function_call_output":
            call_id = item.get("call_id")
            calls = [one.body.get("call_id") for one in self._conversation.items if one.kind == "function_call"]
            if call_id not in calls:
                raise ClientEventError(
                    f"No tool call found for function call output with call_id {call_id}.",
                    code="invalid_value",
                    param="item",
                )
        body: Frame = {**item, "type": kind, "id": item.get("id") or self._new_id("item")}
        added = Item(id=body["id"], body=body, origin="client", text=str(item.get("output") or ""))
        self._conversation.add(added, after=place_of_call(self._conversation.items, body.get("call_id")))

    def _on_response_create(self, event: Frame, now: float) -> None:
        self._needs_responses()
        self._at(now + self._options.pace.first_byte_ms / 1000, lambda at: self._respond(Request(by_vad=True), at))

    def _needs_responses(self) -> None:
        if self._delegation != "responses":
            raise ClientEventError("This event requires Responses delegation.", code="invalid_request", param="type")

    # -- output ----------------------------------------------------------------------------------------

    def _at(self, at: float, act: Callable[[float], None]) -> None:
        insort(self._scheduled, (at, act), key=lambda entry: entry[0])

    def _emit_at(self, at: float, frame: Frame) -> None:
        self._at(at, lambda _: self._emit(frame))

    def _refuse(self, error: ClientEventError, event_id: str | None) -> None:
        fields: Frame = {"type": "invalid_request_error", "code": error.code, "message": str(error)}
        if error.param is not None:
            fields["param"] = error.param
        if event_id is not None:
            fields["client_event_id"] = event_id
        self.truth.client_errors.append(fields)
        self._emit({"type": "error", "error": fields})

    def _emit(self, frame: Frame) -> None:
        kind = frame["type"]
        if kind != "session.output_audio.delta":  # the only one without an id
            frame = {"type": kind, "event_id": self._new_id("event"), **frame}
            if self._client_event_id is not None and kind != "error":
                frame["client_event_id"] = self._client_event_id
        if self._check is not None:
            self._check(frame)
        for output in self._faults.bend(frame):
            self._append(output)

    def _append(self, output: Output) -> None:
        if self.closed:
            return
        if isinstance(output, dict) and output["type"] == "error" and "event_id" in output["error"]:
            # Of a fault, which speaks Realtime.
            error = {name: value for name, value in output["error"].items() if value is not None}
            output = {"type": "error", "event_id": self._new_id("event"), "error": error}
        self._out.append(output)
        if isinstance(output, Close | Abort):
            self.closed = True
            code = output.code if isinstance(output, Close) else 1006
            self.truth.closed = {"code": code, "by": "server"}

    def _flush(self) -> list[Output]:
        out, self._out = self._out, []
        return out
