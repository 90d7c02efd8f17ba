"""The Realtime API's side of one WebSocket, without I/O.

Theory of operation. ``receive`` takes a client event, ``expire`` the passing of time; both return what to
send. Three things move a session: client events, appended audio (through the VAD), and the schedules of
running responses and transcriptions, whose next due time ``deadline`` tells. At most one response writes to
the default conversation; out-of-band ones run beside it. What a response says is decided by ``director``
when it is created, what of it went out is counted delta by delta, and a client's truncation corrects that
to what was heard. Every event passes ``_emit``, where it is checked and where faults bend it.
"""

from __future__ import annotations

import base64
import binascii
from bisect import insort
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from services.rehearsal.accounting import Accounting
from services.rehearsal.conversation import Item, Origin, client_item
from services.rehearsal.director import Act, CallTool, Request, direct
from services.rehearsal.faults import AUDIO_DELTA, FaultPlan
from services.rehearsal.ground_truth import GroundTruth
from services.rehearsal.input_audio import InputBuffer, SpeechStarted, SpeechStopped
from services.rehearsal.listening import Listener
from services.rehearsal.outputs import Abort, Close, Frame, Output
from services.rehearsal.responses import Pace, ResponseSpec, ResponseStream
from services.rehearsal.scenario import Scenario, ScenarioSet
from services.rehearsal.session_config import SessionConfig, TurnDetection, check_format
from services.rehearsal.session_options import SessionOptions, Voice
from services.rehearsal.transcription import failed_transcription, transcription_events
from services.rehearsal.validation import (
    ClientEventError,
    decode_client_event,
    is_plain_append,
    validate_client_event,
)

_SHORTEST_COMMIT_MS = 100
_LONGEST_APPEND_BYTES = 15 * 1024 * 1024
_FOR_GOOD_S = 1e9
_LATE_S = 0.03


class RealtimeSession:
    """One session. ``new_id(prefix)`` and ``rng`` make it reproducible; ``check`` sees every event sent."""

    def __init__(  # noqa: PLR0913  the ports of a core
        self,
        options: SessionOptions,
        *,
        scenarios: ScenarioSet,
        voice: Voice,
        new_id: Callable[[str], str],
        rng: Random,
        faults: FaultPlan,
        check: Callable[[Frame], None] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.truth = GroundTruth(options.session_id, model=options.model)
        self.closed = False
        self._options = options
        self._scenarios, self._voice, self._listener = scenarios, voice, listener
        self._new_id, self._rng, self._faults, self._check = new_id, rng, faults, check
        self._config = SessionConfig(
            session_id=options.session_id,
            model=options.model,
            expires_at=options.expires_at,
            session_type=options.session_type,
        )
        self._conversation = self.truth.conversation
        self._conversation_id = new_id("conv")
        self._buffer = InputBuffer(
            self._config.input_format, self._config.turn_detection, keeps_audio=listener is not None
        )
        self._accounting = Accounting()
        self._active: ResponseStream | None = None
        self._beside: list[ResponseStream] = []
        self._scheduled: list[tuple[float, Frame]] = []
        self._turn_item_id = ""
        self._turn_start_ms = 0
        self._idle_from_ms: float | None = None
        self._responses = 0
        self._force_pcm = False
        self._scenario_faults: set[str] = set()
        self._out: list[Output] = []
        self._handlers: dict[str, Callable[[Frame, float], None]] = {
            "session.update": self._on_session_update,
            "input_audio_buffer.append": self._on_append,
            "input_audio_buffer.commit": self._on_commit,
            "input_audio_buffer.clear": self._on_clear,
            "conversation.item.create": self._on_item_create,
            "conversation.item.delete": self._on_item_delete,
            "conversation.item.retrieve": self._on_item_retrieve,
            "conversation.item.truncate": self._on_item_truncate,
            "response.create": self._on_response_create,
            "response.cancel": self._on_response_cancel,
            "output_audio_buffer.clear": self._on_output_clear,
        }
        self._choose_scenario()

    # -- the core's interface --------------------------------------------------------------------------

    def start(self) -> list[Output]:
        """The first frame, which the server sends unasked."""
        if self._faults.take("no_session_created") is None:
            self._emit({"type": "session.created", "session": self._config.current})
        return self._flush()

    def receive(self, event: Frame | str | bytes, now: float) -> list[Output]:
        """Handle one client event: an object, or the text of a frame. Faulty ones earn an ``error``."""
        fields: Any = event
        if self.closed:
            return []
        try:
            if isinstance(event, str | bytes):
                fields = decode_client_event(event)
            if not is_plain_append(fields):
                validate_client_event(fields)
            kind = fields["type"]
            self.truth.client_events[kind] = self.truth.client_events.get(kind, 0) + 1
            self._handlers[kind](fields, now)
        except ClientEventError as error:
            event_id = fields.get("event_id") if isinstance(fields, dict) else None
            self._refuse(error, event_id if isinstance(event_id, str) else None)
        return self._flush()

    def deadline(self) -> float | None:
        """When ``expire`` has something to do; never once the session is closed."""
        if self.closed:
            return None
        due = [at for stream in self._streams() if (at := stream.deadline()) is not None]
        if self._scheduled:
            due.append(self._scheduled[0][0])
        fault_at = self._faults.deadline()
        if fault_at is not None:
            due.append(fault_at)
        return min(due, default=None)

    def expire(self, now: float) -> list[Output]:
        """Send what is due."""
        for struck in self._faults.expire(now):
            self._append(struck)
        while self._scheduled and self._scheduled[0][0] <= now:
            self._emit(self._scheduled.pop(0)[1])
        for stream in self._streams():
            self._advance(stream, now)
        return self._flush()

    def connection_lost(self, code: int | None, by: str) -> None:
        """Complete the record; ``by`` is "client" or "server"."""
        self.closed = True
        self.truth.appended_ms = self._buffer.appended_ms
        if self.truth.closed is None:
            self.truth.closed = {"code": code, "by": by}

    # -- session ---------------------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario:
        return self._scenarios.choose(instructions=self._config.instructions, query=self._options.scenario)

    def _choose_scenario(self) -> None:
        scenario = self.scenario
        self.truth.scenario = scenario.name
        if scenario.name not in self._scenario_faults:
            self._scenario_faults.add(scenario.name)
            self._faults.add(fault for fault in scenario.faults if fault.on == "realtime")
        self.truth.input_format = self._config.input_format
        if self._options.session_type == "realtime":
            self.truth.output_format = self._config.output_format

    def _on_session_update(self, event: Frame, now: float) -> None:
        self._config.update(
            event["session"],
            has_assistant_audio=self._conversation.has_assistant_audio,
            responding=self._active is not None,
        )
        pcm = self._faults.take("pcm_instead")
        if pcm is not None:
            self._force_pcm = True
            if pcm.echo:
                self._config.current["audio"]["output"]["format"] = {"type": "audio/pcm", "rate": 24000}
        self._buffer.configure(self._config.input_format, self._config.turn_detection)
        self._choose_scenario()
        if self._faults.take("no_session_updated") is None:
            self._emit({"type": "session.updated", "session": self._config.current})

    # -- input audio -----------------------------------------------------------------------------------

    def _on_append(self, event: Frame, now: float) -> None:
        text = event["audio"]
        if len(text) > _LONGEST_APPEND_BYTES * 4 // 3:
            raise ClientEventError(
                "Invalid 'audio': at most 15 MiB per event.", code="string_above_max_length", param="audio"
            )
        try:
            audio = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise self._invalid_audio() from None
        if self._config.input_format == "audio/pcm" and len(audio) % 2:
            raise self._invalid_audio()
        for change in self._buffer.append(audio):
            if isinstance(change, SpeechStarted):
                self._speech_started(change)
            else:
                self._speech_stopped(change, now)
        self.truth.appended_ms = self._buffer.appended_ms
        self._check_idle(now)

    def _invalid_audio(self) -> ClientEventError:
        return ClientEventError(
            "Invalid 'audio'. Expected base64-encoded audio bytes in the session's input format"
            f" ({self._config.input_format}) but got an invalid value.",
            code="invalid_value",
            param="audio",
        )

    def _speech_started(self, change: SpeechStarted) -> None:
        self._idle_from_ms = None
        self._turn_item_id = self._new_id("item")
        self._turn_start_ms = change.audio_start_ms
        self._emit(
            {
                "type": "input_audio_buffer.speech_started",
                "audio_start_ms": change.audio_start_ms,
                "item_id": self._turn_item_id,
            }
        )
        if self._detection().interrupt_response and self._active is not None:
            self._cancel(self._active, "turn_detected")

    def _speech_stopped(self, change: SpeechStopped, now: float) -> None:
        self._emit(
            {
                "type": "input_audio_buffer.speech_stopped",
                "audio_end_ms": change.audio_end_ms,
                "item_id": self._turn_item_id,
            }
        )
        self._commit(self._turn_item_id, self._buffer.take_turn(), now, end_ms=change.audio_end_ms)
        if self._detection().create_response and self._options.session_type == "realtime":
            try:
                self._create_response({}, Request(by_vad=True), now)
            except ClientEventError as error:
                # Without interrupt_response the running one goes on, and this one cannot be created.
                self._refuse(error, None)

    def _detection(self) -> TurnDetection:
        detection = self._config.turn_detection
        assert detection is not None, "only a VAD reports speech"
        return detection

    def _on_commit(self, event: Frame, now: float) -> None:
        pending_ms = self._buffer.pending_ms
        if pending_ms < _SHORTEST_COMMIT_MS:
            raise ClientEventError(
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio,"
                f" but buffer only has {pending_ms:.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )
        end_ms = int(self._buffer.appended_ms)
        self._turn_start_ms = int(end_ms - pending_ms)
        self._commit(self._new_id("item"), pending_ms, now, end_ms=end_ms)
        self._buffer.clear()

    def _on_clear(self, event: Frame, now: float) -> None:
        self._buffer.clear()
        self._emit({"type": "input_audio_buffer.cleared"})

    def _commit(self, item_id: str, audio_ms: float, now: float, *, end_ms: int, origin: Origin = "caller") -> None:
        body: Frame = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }
        item = Item(id=item_id, body=body, origin=origin, audio_ms=audio_ms)
        previous = self._conversation.add(item)
        if item.is_user_turn:
            item.text = self._words()
            self._faults.begin_turn(self._conversation.turn)
        self.truth.turns.append(
            {
                "item_id": item_id,
                "audio_start_ms": self._turn_start_ms,
                "audio_end_ms": end_ms,
                "text": item.text,
            }
        )
        committed = {"type": "input_audio_buffer.committed", "item_id": item_id}
        self._emit({**committed, "previous_item_id": previous})
        self._announce(item, previous)
        if self._config.transcription is not None:
            self._transcribe(item, now)

    def _words(self) -> str:
        """What the caller has just said: in a transcription session by the sound of it, else by the scenario."""
        if self._listener is None:
            return self.scenario.transcript(self._conversation.turn)
        prompt = (self._config.transcription or {}).get("prompt") or ""
        heard = self._listener.hear(
            self._buffer.take_audio(),
            conversation=self.truth.session_id,
            scenario=self._options.scenario,
            prompt=prompt,
        )
        self.truth.scenario = heard.scenario
        return heard.text

    def _transcribe(self, item: Item, now: float) -> None:
        if self._faults.take("empty_transcript") is not None:
            item.text = ""
        at = now + self._options.transcription_delay_ms / 1000
        is_failing = self._faults.take("transcription_failed") is not None
        model = str((self._config.transcription or {}).get("model"))
        told = transcription_events(item, model, self.scenario.language)
        for frame in [failed_transcription(item)] if is_failing else told:
            self._schedule(at, frame)

    def _check_idle(self, now: float) -> None:
        detection = self._config.turn_detection
        if detection is None or detection.idle_timeout_ms is None or self._idle_from_ms is None:
            return
        end_ms = self._buffer.appended_ms
        if self._active is not None or self._buffer.speaking:
            return
        if end_ms < self._idle_from_ms + detection.idle_timeout_ms:
            return
        start_ms, self._idle_from_ms = self._idle_from_ms, None
        item_id = self._new_id("item")
        self._turn_start_ms = int(start_ms)
        self._emit(
            {
                "type": "input_audio_buffer.timeout_triggered",
                "audio_start_ms": int(start_ms),
                "audio_end_ms": int(end_ms),
                "item_id": item_id,
            }
        )
        self._buffer.commit()
        self._commit(item_id, end_ms - start_ms, now, end_ms=int(end_ms), origin="idle")
        self._create_response({}, Request(idle=True, by_vad=True), now)

    # -- conversation ----------------------------------------------------------------------------------

    def _on_item_create(self, event: Frame, now: float) -> None:
        fields = event["item"]
        item = client_item(fields, fields.get("id") or self._new_id("item"))
        if item.kind == "function_call":
            item.body["call_id"] = fields.get("call_id") or self._new_id("call")
        elif item.kind == "function_call_output":
            call_id = fields["call_id"]
            if not any(i.body.get("call_id") == call_id for i in self._conversation.items):
                raise ClientEventError(
                    f"Tool call ID '{call_id}' not found in conversation.",
                    code="invalid_tool_call_id",
                    param="item.call_id",
                )
        previous = self._conversation.add(item, after=event.get("previous_item_id"))
        if item.is_user_turn:
            self._faults.begin_turn(self._conversation.turn)
        self._announce(item, previous)

    def _announce(self, item: Item, previous: str | None) -> None:
        for kind in ("added", "done"):
            self._emit(
                {
                    "type": f"conversation.item.{kind}",
                    "previous_item_id": previous,
                    "item": dict(item.body),
                }
            )

    def _on_item_delete(self, event: Frame, now: float) -> None:
        self._conversation.delete(event["item_id"])
        self._emit({"type": "conversation.item.deleted", "item_id": event["item_id"]})

    def _on_item_retrieve(self, event: Frame, now: float) -> None:
        item = self._conversation.retrieve(event["item_id"])
        self._emit({"type": "conversation.item.retrieved", "item": dict(item.body)})

    def _on_item_truncate(self, event: Frame, now: float) -> None:
        cut = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
        self._conversation.truncate(**cut)
        self.truth.truncations.append(cut)
        self._emit({"type": "conversation.item.truncated", **cut})

    # -- responses -------------------------------------------------------------------------------------

    def _on_response_create(self, event: Frame, now: float) -> None:
        if self._options.session_type != "realtime":
            raise ClientEventError("A transcription session does not create responses.", code="invalid_request_error")
        params: Frame = event.get("response") or {}
        asked = (params.get("audio") or {}).get("output", {}).get("format")
        if asked is not None:
            check_format(asked, "response.audio.output.format")
        given = params.get("input")
        instructions = params.get("instructions") or ""
        request = Request(
            # They replace the session's own, so clients repeat those: what they add is what directs the response.
            instructions=instructions.removeprefix(self._config.instructions).strip() or instructions,
            input=tuple(given) if given is not None else None,
            out_of_band=params.get("conversation") == "none",
        )
        self._create_response(params, request, now)

    def _create_response(self, params: Frame, request: Request, now: float) -> None:
        if self._active is not None and not request.out_of_band:
            raise ClientEventError(
                "Conversation already has an active response in progress:"
                f" {self._active.spec.id}. Wait until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        spec = self._spec(params, self._acts(params, request))
        if request.out_of_band:
            spec.conversation_id = None
        stream = ResponseStream(
            spec,
            conversation=None if request.out_of_band else self._conversation,
            speak=self._voice.encoded,
            pcm=self._voice.pcm,
            new_id=self._new_id,
            rng=self._rng,
            pace=self._pace(),
            now=now,
        )
        self._responses += 1
        self._idle_from_ms = None
        if request.out_of_band:
            self._beside.append(stream)
        else:
            self._active = stream
        self._emit({"type": "response.created", "response": stream.snapshot()})
        self._emit(self._accounting.rate_limits())

    def _acts(self, params: Frame, request: Request) -> list[Act]:
        tools = self._config.tool_names
        if "tools" in params:
            tools = {tool["name"] for tool in params["tools"] or [] if tool.get("type") == "function"}
        if params.get("tool_choice", self._config.current.get("tool_choice")) == "none":
            tools = set()
        request = replace(request, first=self._responses == 0, tools=frozenset(tools))
        acts = direct(self.scenario, self._conversation, request)
        return [self._maybe_broken(act) for act in acts]

    def _maybe_broken(self, act: Act) -> Act:
        if isinstance(act, CallTool) and self._faults.take("invalid_arguments") is not None:
            return CallTool(act.name, act.arguments[: max(1, len(act.arguments) // 2)])
        return act

    def _spec(self, params: Frame, acts: list[Act]) -> ResponseSpec:
        output = (params.get("audio") or {}).get("output") or {}
        current = self._config.current
        audio_format = (output.get("format") or {}).get("type") or self._config.output_format
        spec = ResponseSpec(
            id=self._new_id("resp"),
            acts=acts,
            audio_format="audio/pcm" if self._force_pcm else audio_format,
            voice=output.get("voice") or self._config.voice,
            text_only=(params.get("output_modalities") or current["output_modalities"]) == ["text"],
            conversation_id=self._conversation_id,
            metadata=params.get("metadata"),
            max_output_tokens=params.get("max_output_tokens") or current["max_output_tokens"] or "inf",
            odd_bytes=self._faults.take("odd_bytes") is not None,
        )
        if self._faults.take("rate_limit") is not None:
            error = {"type": "requests", "code": "rate_limit_exceeded"}
            error["message"] = "Rate limit reached. Please try again later."
            spec.failure = {"type": "failed", "error": error}
        incomplete = self._faults.take("incomplete")
        if incomplete is not None:
            spec.incomplete_reason = incomplete.reason or "max_output_tokens"
        return spec

    def _pace(self) -> Pace:
        pace = self._options.pace
        if self._faults.take("burst") is not None:
            return replace(pace, speed=_FOR_GOOD_S)
        drip = self._faults.take("slow_drip")
        return replace(pace, speed=drip.factor) if drip is not None else pace

    def _on_response_cancel(self, event: Frame, now: float) -> None:
        wanted = event.get("response_id")
        for stream in self._streams():
            if stream.spec.id == wanted or (wanted is None and stream is self._active):
                self._cancel(stream, "client_cancelled", now)
                return
        raise ClientEventError("Cancellation failed: no active response found", code="response_cancel_not_active")

    def _on_output_clear(self, event: Frame, now: float) -> None:
        raise ClientEventError(
            "output_audio_buffer.clear is only available in WebRTC and SIP sessions.",
            code="invalid_value",
            param="type",
        )

    def _advance(self, stream: ResponseStream, now: float) -> None:
        while (at := stream.deadline()) is not None and at <= now and not self.closed:
            for frame in stream.expire(now):
                self._emit(frame)
                if frame["type"] == AUDIO_DELTA:
                    self._disturb(stream, frame)
        if stream.finished:
            self._done(stream, _status_details(stream))

    def _disturb(self, stream: ResponseStream, frame: Frame) -> None:
        if self._faults.has("duplicate_deltas"):
            twice = self._faults.take("duplicate_deltas")
            for _ in range(twice.deltas if twice is not None else 0):
                self._emit(frame)
        stall = self._faults.take("stall") if self._faults.has("stall") else None
        if stall is not None:
            stream.delay(stall.duration_ms / 1000 or _FOR_GOOD_S)

    def _cancel(self, stream: ResponseStream, reason: str, now: float | None = None) -> None:
        for frame in stream.cancel():
            self._emit(frame)
        self._done(stream, {"type": "cancelled", "reason": reason})
        late = self._faults.take("late_deltas")
        if late is not None:
            for frame in stream.late_deltas(late.deltas):
                if now is None:
                    self._emit(frame)
                else:
                    self._schedule(now + _LATE_S, frame)

    def _done(self, stream: ResponseStream, details: Frame | None) -> None:
        usage = self._accounting.usage(self._conversation, self._config.instructions, stream.usage)
        self._emit({"type": "response.done", "response": stream.snapshot(usage=usage, status_details=details)})
        self.truth.responses.append(
            {"id": stream.spec.id, "status": stream.status, "details": details, "audio_ms": stream.audio_ms}
        )
        if stream is self._active:
            self._active = None
            self._idle_from_ms = self._buffer.appended_ms + stream.audio_ms
        else:
            self._beside.remove(stream)
            self.truth.out_of_band.extend(stream.items)

    def _streams(self) -> list[ResponseStream]:
        return ([self._active] if self._active is not None else []) + self._beside

    # -- output ----------------------------------------------------------------------------------------

    def _refuse(self, error: ClientEventError, event_id: str | None) -> None:
        fields = {
            "type": "invalid_request_error",
            "code": error.code,
            "message": str(error),
            "param": error.param,
            "event_id": event_id,
        }
        self.truth.client_errors.append(fields)
        self._emit({"type": "error", "error": fields})

    def _emit(self, frame: Frame) -> None:
        frame = {"type": frame["type"], "event_id": self._new_id("event"), **frame}
        if self._check is not None:
            self._check(frame)
        for output in self._faults.bend(frame):
            self._append(output)

    def _schedule(self, at: float, frame: Frame) -> None:
        insort(self._scheduled, (at, frame), key=lambda entry: entry[0])

    def _append(self, output: Output) -> None:
        if self.closed:
            return
        if isinstance(output, dict) and "event_id" not in output:
            output = {**output, "event_id": self._new_id("event")}
        self._out.append(output)
        if isinstance(output, Close | Abort):
            self.closed = True
            code = output.code if isinstance(output, Close) else 1006
            self.truth.closed = {"code": code, "by": "server"}

    def _flush(self) -> list[Output]:
        out, self._out = self._out, []
        return out


def _status_details(stream: ResponseStream) -> Frame | None:
    if stream.status == "failed":
        return stream.spec.failure
    if stream.status == "incomplete":
        return {"type": "incomplete", "reason": stream.spec.incomplete_reason or "max_output_tokens"}
    return None
