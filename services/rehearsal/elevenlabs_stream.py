"""ElevenLabs' ``stream-input`` over WebSocket, without I/O: text in pieces, audio with its alignment out.

Theory of operation. Text gathers until there is enough of it: as many characters as the generation schedule's next
step, with ``auto_mode`` a whole sentence, or what there is when a ``flush`` comes. Then its sentences are spoken, each
in one message with the time of every character. An empty text speaks the rest and ends with ``isFinal``. Source: the
API reference, "WebSocket".
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from services.rehearsal.elevenlabs import ElevenLabsError, VoiceSettings, check_settings
from services.rehearsal.outputs import Close, Frame, Output
from services.rehearsal.refusals import ApiError
from services.rehearsal.speech_text import sentences

POLICY_VIOLATION = 1008  # how the API closes after any error
_SCHEDULE = (120, 160, 250, 290)  # characters: the default of `generation_config.chunk_length_schedule`
_SENTENCE = re.compile(r"[.!?…]\s")


@dataclass(frozen=True, slots=True)
class Spoken:
    """An audio message, and how long its audio lasts."""

    frame: Frame
    seconds: float


class TextStream:
    """One connection's text, until ``closed``.

    ``speak`` renders a sentence in the connection's format, ``check_key`` judges a key sent in the first message and
    raises ElevenLabsError.
    """

    def __init__(
        self,
        speak: Callable[[str], bytes],
        bytes_per_s: int,
        *,
        auto_mode: bool = False,
        check_key: Callable[[str], None] | None = None,
    ) -> None:
        self.closed = False
        self.characters = 0
        self.text = ""
        self._speak, self._bytes_per_s = speak, bytes_per_s
        self._auto_mode, self._check_key = auto_mode, check_key
        self._begun = False
        self._pending = ""
        self._steps = list(_SCHEDULE)

    def receive(self, message: str) -> list[Spoken | Output]:
        """Take one message of the client; return what goes out for it."""
        try:
            fields = _object(message)
            if not self._begun:
                self._begin(fields)
            text = fields.get("text")
            if not isinstance(text, str):
                raise ElevenLabsError(400, "invalid_message", "The field 'text' must be a string.")
        except ApiError as refusal:
            return self.refuse(refusal)
        if text == "":
            self.closed = True
            return [*self._generate(self._pending), {"audio": None, "isFinal": True}, Close(1000)]
        self._pending += text
        return self._generate(self._due(flush=fields.get("flush") is True))

    def refuse(self, refusal: ApiError) -> list[Spoken | Output]:
        """An error and the end of the connection."""
        self.closed = True
        error = {"message": refusal.message, "error": refusal.code, "code": POLICY_VIOLATION}
        return [error, Close(POLICY_VIOLATION, refusal.message[:120])]

    def _begin(self, fields: Frame) -> None:
        if self._check_key is not None:
            key = fields.get("xi_api_key") or str(fields.get("authorization") or "").removeprefix("Bearer ")
            self._check_key(key)
        try:
            settings = VoiceSettings.model_validate(fields.get("voice_settings") or {})
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise ElevenLabsError(400, "invalid_voice_settings", message) from error
        check_settings(settings)
        schedule = (fields.get("generation_config") or {}).get("chunk_length_schedule", list(_SCHEDULE))
        if not isinstance(schedule, list) or not all(isinstance(step, int) and 50 <= step <= 500 for step in schedule):
            message = "chunk_length_schedule must be a list of numbers from 50 to 500."
            raise ElevenLabsError(400, "invalid_generation_config", message)
        self._steps = schedule or list(_SCHEDULE)
        self._begun = True

    def _due(self, *, flush: bool) -> str:
        """The pending text that is spoken now."""
        if flush:
            return self._pending
        if self._auto_mode:
            ends = [match.end() for match in _SENTENCE.finditer(self._pending)]
            return self._pending[: ends[-1]] if ends else ""
        if len(self._pending) < self._steps[0]:
            return ""
        if len(self._steps) > 1:
            self._steps.pop(0)
        # Never in the middle of a word, whose end is still to come.
        return self._pending[: self._pending.rfind(" ") + 1]

    def _generate(self, text: str) -> list[Spoken | Output]:
        self._pending = self._pending[len(text) :]
        self.characters += len(text.strip())
        self.text += text
        return [self._spoken(sentence) for sentence in sentences(text)]

    def _spoken(self, sentence: str) -> Spoken:
        audio = self._speak(sentence)
        seconds = len(audio) / self._bytes_per_s
        step_ms = 1000 * seconds / len(sentence)
        starts = [round(index * step_ms) for index in range(len(sentence) + 1)]
        alignment = {
            "chars": list(sentence),
            "charStartTimesMs": starts[:-1],
            "charDurationsMs": [end - start for start, end in itertools.pairwise(starts)],
        }
        encoded = base64.b64encode(audio).decode()
        frame = {"audio": encoded, "isFinal": None, "normalizedAlignment": alignment, "alignment": alignment}
        return Spoken(frame, seconds)


def _object(message: str) -> Frame:
    try:
        fields: Any = json.loads(message)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ElevenLabsError(400, "invalid_message", "A message must be a JSON object.")
    return fields
