"""One response on its way out: a schedule of events, faster than real time, that can be cut at any point.

Order of events as in the Realtime API reference (a VAD turn): response.created, rate_limits.updated,
then per item output_item.added, conversation.item.added, content_part.added, deltas, the done events,
conversation.item.done, output_item.done, and response.done last.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from services.rehearsal.conversation import Conversation, Item
from services.rehearsal.director import Act, CallTool, Say
from services.rehearsal.outputs import Frame
from services.rehearsal.session_config import bytes_per_ms

AUDIO_MS_PER_OUTPUT_TOKEN = 50
_SHORTEST_CHUNK_MS = 30
_LONGEST_CHUNK_MS = 220
_CHARACTERS_PER_ARGUMENT_DELTA = 12


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a response comes: ``speed`` 8 means a second of audio in 125 ms."""

    speed: float = 8.0
    first_byte_ms: float = 150.0
    tool_call_ms: float = 80.0


@dataclass(slots=True)
class ResponseSpec:
    """What one response is made of."""

    id: str
    acts: list[Act]
    audio_format: str
    voice: object
    text_only: bool = False
    conversation_id: str | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | str = "inf"
    failure: Frame | None = None
    incomplete_reason: str | None = None
    odd_bytes: bool = False


@dataclass(slots=True)
class Usage:
    """Token counts of what was generated."""

    text_tokens: int = 0
    audio_ms: float = 0.0

    @property
    def audio_tokens(self) -> int:
        return round(self.audio_ms / AUDIO_MS_PER_OUTPUT_TOKEN)


@dataclass(slots=True)
class _Part:
    """An output item while it is being generated."""

    item: Item
    index: int
    act: Act
    encoded: bytes = b""
    sent_bytes: int = 0
    sent_text: str = ""
    open: bool = False
    done: bool = False
    words: deque[tuple[float, str]] = field(default_factory=deque)


_Emit = Callable[[], list[Frame]]


class ResponseStream:
    """A running response. ``conversation`` is None for an out-of-band one, whose items it leaves no trace of."""

    def __init__(  # noqa: PLR0913  everything a response depends on, and nothing it could find elsewhere
        self,
        spec: ResponseSpec,
        *,
        conversation: Conversation | None,
        speak: Callable[[str, str], bytes],
        pcm: Callable[[str], bytes],
        new_id: Callable[[str], str],
        rng: Random,
        pace: Pace,
        now: float,
    ) -> None:
        self.spec = spec
        self.usage = Usage()
        self.status = "in_progress"
        self.finished = False
        self._conversation = conversation
        self._speak, self._pcm = speak, pcm
        self._new_id, self._rng, self._pace = new_id, rng, pace
        self._parts: list[_Part] = []
        self._steps: deque[tuple[float, _Emit]] = deque()
        self._cut = False
        self._build(now)

    # -- time ------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When the next event is due; None once response.done is out."""
        return self._steps[0][0] if self._steps else None

    def expire(self, now: float) -> list[Frame]:
        """The events of the next step that is due, if one is."""
        if not self._steps or self._steps[0][0] > now:
            return []
        return self._steps.popleft()[1]()

    def delay(self, duration_s: float) -> None:
        """Hold back everything that is still to come."""
        self._steps = deque((at + duration_s, emit) for at, emit in self._steps)

    # -- control ---------------------------------------------------------------------------------------

    @property
    def items(self) -> list[Item]:
        return [part.item for part in self._parts]

    @property
    def audio_ms(self) -> float:
        return self.usage.audio_ms

    def snapshot(self, *, usage: Frame | None = None, status_details: Frame | None = None) -> Frame:
        """The ``response`` object as it stands."""
        spec = self.spec
        audio_format: Frame = {"type": spec.audio_format}
        if spec.audio_format == "audio/pcm":
            audio_format["rate"] = 24000
        return {
            "object": "realtime.response",
            "id": spec.id,
            "status": self.status,
            "status_details": status_details,
            "output": [dict(part.item.body) for part in self._parts if part.open or part.done],
            "conversation_id": spec.conversation_id,
            "output_modalities": ["text"] if spec.text_only else ["audio"],
            "max_output_tokens": spec.max_output_tokens,
            "audio": {"output": {"format": audio_format, "voice": spec.voice}},
            "usage": usage,
            "metadata": spec.metadata,
        }

    def cancel(self) -> list[Frame]:
        """Stop generating; the closing events of what is open. The caller adds response.done."""
        frames = [frame for part in self._parts if part.open for frame in self._close(part, "incomplete")]
        self._finish("cancelled")
        return frames

    def late_deltas(self, count: int) -> list[Frame]:
        """Audio deltas as if the cancel had not been noticed yet (a fault)."""
        part = next((p for p in reversed(self._parts) if p.encoded and p.sent_bytes), None)
        if part is None:
            return []
        chunk = part.encoded[part.sent_bytes : part.sent_bytes + 800] or part.encoded[-800:]
        return [self._event("response.output_audio.delta", part, delta=_b64(chunk)) for _ in range(count)]

    # -- schedule --------------------------------------------------------------------------------------

    def _build(self, now: float) -> None:
        at = now + self._pace.first_byte_ms / 1000
        if self.spec.failure is not None:
            self._steps.append((at, lambda: self._finish("failed")))
            return
        budget = self.spec.max_output_tokens
        left = budget if isinstance(budget, int) else None
        for index, act in enumerate(self.spec.acts):
            if isinstance(act, Say):
                part = self._message(index, act)
                at, left = self._schedule_message(part, at, left)
            else:
                part = self._function_call(index, act)
                at = self._schedule_call(part, act, at)
            self._parts.append(part)
            if self._cut:
                break
        final = "incomplete" if self._cut or self.spec.incomplete_reason else "completed"
        self._steps.append((at, lambda: self._finish(final)))

    def _message(self, index: int, act: Say) -> _Part:
        body: Frame = {
            "id": self._new_id("item"),
            "object": "realtime.item",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        item = Item(id=body["id"], body=body, origin="model", text=act.text)
        part = _Part(item, index, act)
        if not self.spec.text_only:
            part.encoded = self._speak(act.text, self.spec.audio_format)
            item.audio = self._pcm(act.text)
            item.audio_ms = len(item.audio) / 16
        return part

    def _function_call(self, index: int, act: CallTool) -> _Part:
        body: Frame = {
            "id": self._new_id("item"),
            "object": "realtime.item",
            "type": "function_call",
            "status": "in_progress",
            "name": act.name,
            "call_id": self._new_id("call"),
            "arguments": "",
        }
        return _Part(Item(id=body["id"], body=body, origin="model"), index, act)

    def _schedule_message(self, part: _Part, at: float, left: int | None) -> tuple[float, int | None]:
        self._steps.append((at, lambda: self._open(part)))
        words = part.item.text.split(" ")
        if self.spec.text_only:
            for count, word in enumerate(words):
                text = word if count == 0 else f" {word}"
                at += 0.02
                self._steps.append((at, lambda text=text: self._text_delta(part, text)))  # type: ignore[misc]
        else:
            per_ms = bytes_per_ms(self.spec.audio_format)
            total = len(part.encoded)
            if left is not None and total > left * AUDIO_MS_PER_OUTPUT_TOKEN * per_ms:
                total, self._cut = left * AUDIO_MS_PER_OUTPUT_TOKEN * per_ms, True
            # The transcript runs a little ahead of the audio, as the model's does.
            spread = max(1, total - 400 * per_ms) / len(words)
            part.words.extend((i * spread, w if i == 0 else f" {w}") for i, w in enumerate(words))
            sent = 0
            while sent < total:
                size = min(self._chunk_bytes(), total - sent)
                self._steps.append((at, lambda s=sent, n=size: self._audio_delta(part, s, n)))  # type: ignore[misc]
                sent += size
                at += size / per_ms / 1000 / self._pace.speed
            if left is not None:
                left -= total // (AUDIO_MS_PER_OUTPUT_TOKEN * per_ms)
        status = "incomplete" if self._cut or self.spec.incomplete_reason else "completed"
        self._steps.append((at, lambda: self._close(part, status)))
        return at, left

    def _chunk_bytes(self) -> int:
        # Any length, mostly odd and never a whole number of 20 ms frames; PCM keeps whole samples.
        per_ms = bytes_per_ms(self.spec.audio_format)
        size = self._rng.randint(_SHORTEST_CHUNK_MS * per_ms, _LONGEST_CHUNK_MS * per_ms)
        if self.spec.odd_bytes:
            return size | 1
        return size & ~1 if self.spec.audio_format == "audio/pcm" else size

    def _schedule_call(self, part: _Part, act: CallTool, at: float) -> float:
        self._steps.append((at, lambda: self._open(part)))
        text = act.arguments
        pieces = [
            text[i : i + _CHARACTERS_PER_ARGUMENT_DELTA] for i in range(0, len(text), _CHARACTERS_PER_ARGUMENT_DELTA)
        ]
        for piece in pieces:
            at += self._pace.tool_call_ms / 1000 / len(pieces)
            self._steps.append((at, lambda piece=piece: self._arguments_delta(part, piece)))  # type: ignore[misc]
        self._steps.append((at, lambda: self._close(part, "completed")))
        return at

    # -- events ----------------------------------------------------------------------------------------

    def _open(self, part: _Part) -> list[Frame]:
        part.open = True
        frames: list[Frame] = [
            {
                "type": "response.output_item.added",
                "response_id": self.spec.id,
                "output_index": part.index,
                "item": dict(part.item.body),
            }
        ]
        if self._conversation is not None:
            previous = self._conversation.add(part.item)
            frames.append(
                {
                    "type": "conversation.item.added",
                    "previous_item_id": previous,
                    "item": dict(part.item.body),
                }
            )
        if isinstance(part.act, Say):
            empty = {"type": "text", "text": ""} if self.spec.text_only else {"type": "audio", "transcript": ""}
            frames.append(self._event("response.content_part.added", part, part=empty))
        return frames

    def _audio_delta(self, part: _Part, start: int, count: int) -> list[Frame]:
        frames = []
        while part.words and part.words[0][0] <= start + count:
            text = part.words.popleft()[1]
            part.sent_text += text
            self.usage.text_tokens += 1
            frames.append(self._event("response.output_audio_transcript.delta", part, delta=text))
        chunk = part.encoded[start : start + count]
        part.sent_bytes = start + count
        milliseconds = count / bytes_per_ms(self.spec.audio_format)
        part.item.sent_ms += milliseconds
        self.usage.audio_ms += milliseconds
        frames.append(self._event("response.output_audio.delta", part, delta=_b64(chunk)))
        return frames

    def _text_delta(self, part: _Part, text: str) -> list[Frame]:
        part.sent_text += text
        self.usage.text_tokens += 1
        return [self._event("response.output_text.delta", part, delta=text)]

    def _arguments_delta(self, part: _Part, text: str) -> list[Frame]:
        part.sent_text += text
        self.usage.text_tokens += 3
        call_id = part.item.body["call_id"]
        event = self._event("response.function_call_arguments.delta", part, call_id=call_id, delta=text)
        del event["content_index"]
        return [event]

    def _close(self, part: _Part, status: str) -> list[Frame]:
        part.open, part.done = False, True
        body = part.item.body
        body["status"] = status
        frames = self._close_call(part) if part.item.kind == "function_call" else self._close_message(part)
        if self._conversation is not None and self._conversation.find(part.item.id) is not None:
            frames.append(
                {"type": "conversation.item.done", "previous_item_id": self._before(part), "item": dict(body)}
            )
        frames.append(
            {
                "type": "response.output_item.done",
                "response_id": self.spec.id,
                "output_index": part.index,
                "item": dict(body),
            }
        )
        return frames

    def _close_call(self, part: _Part) -> list[Frame]:
        body = part.item.body
        body["arguments"] = part.sent_text
        event = self._event(
            "response.function_call_arguments.done",
            part,
            call_id=body["call_id"],
            name=body["name"],
            arguments=part.sent_text,
        )
        del event["content_index"]
        return [event]

    def _close_message(self, part: _Part) -> list[Frame]:
        text = part.sent_text
        if self.spec.text_only:
            part.item.body["content"] = [{"type": "output_text", "text": text}]
            content = {"type": "text", "text": text}
            frames = [self._event("response.output_text.done", part, text=text)]
        else:
            if part.item.truncated_at_ms is None:
                part.item.body["content"] = [{"type": "output_audio", "transcript": text}]
            content = {"type": "audio", "transcript": text}
            frames = [
                self._event("response.output_audio.done", part),
                self._event("response.output_audio_transcript.done", part, transcript=text),
            ]
        return [*frames, self._event("response.content_part.done", part, part=content)]

    def _finish(self, status: str) -> list[Frame]:
        self.status = status
        self.finished = True
        self._steps.clear()
        return []

    def _before(self, part: _Part) -> str | None:
        items = self._conversation.items if self._conversation is not None else []
        index = items.index(part.item)
        return items[index - 1].id if index else None

    def _event(self, kind: str, part: _Part, /, **fields: object) -> Frame:
        return {
            "type": kind,
            "response_id": self.spec.id,
            "item_id": part.item.id,
            "output_index": part.index,
            "content_index": 0,
            **fields,
        }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
