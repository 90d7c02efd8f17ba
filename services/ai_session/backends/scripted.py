"""A deterministic backend for tests, load runs and lines without a model, by `agent.backend_options`.

`{"mode": "echo"}` returns the caller's audio sample by sample at its own pace.

`{"mode": "talk", "say": [...]}` answers each turn with the next entry of `say` (the last one repeats); the
first response of the call is the first entry. An entry is a list of steps, or one step:
`"tone:440:1000"` (Hz, ms), `"silence:300"`, `"text:Guten Tag."` (the transcript of what follows),
`"tool:NAME:{json}"` (a tool call; the response ends there, the next entry answers with its result),
`"fail:TEXT"` (the response fails), `"lose:TEXT"` (the connection breaks). A caller's turn begins with
`"start_level_dbfs"` (default -35) and ends after `"silence_ms"` (default 400) below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from libs.audio.level import rms
from libs.audio.tone import silence, tone
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    BackendError,
    CallerTranscript,
    Capabilities,
    ContinuousAudio,
    Emit,
    Lost,
    Opening,
    ResponseEnded,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextEnded,
    ToolRequested,
)
from services.ai_session.phrases import Wish

FRAME_MS = 20


class EchoBackend:
    """Returns each frame as it came."""

    capabilities = Capabilities(server_turns=False, server_interrupts=False, truncate=False, continuous_output=True)

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    async def open(self, opening: Opening) -> None:
        """Nothing to open."""

    def feed(self, pcm: bytes) -> bool:
        """Send it back."""
        self._emit(ContinuousAudio(pcm))
        return True

    def start_response(self, wish: Wish) -> None:
        """An echo has nothing to say."""

    def cancel_response(self, response: str) -> None:
        """Nothing to cancel."""

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """Nothing to remember."""

    def delete_item(self, item: str) -> None:
        """Nothing to remember."""

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """It calls no tools."""

    def tick(self, now: float) -> None:
        """Nothing is due."""

    async def close(self) -> None:
        """Nothing to close."""


class TalkBackend:
    """Answers turns from a list; behaves as a realtime server with server VAD does."""

    capabilities = Capabilities()

    def __init__(self, options: Mapping[str, Any], rate_hz: int, emit: Emit) -> None:
        self._emit = emit
        self._rate_hz = rate_hz
        say = options.get("say", ["tone:440:1000"])
        self._entries: list[list[str]] = [[step] if isinstance(step, str) else list(step) for step in say]
        level = float(options.get("start_level_dbfs", -35.0))
        self._start_rms = 32768 * 10 ** (level / 20)
        self._silence_frames = int(options.get("silence_ms", 400)) // FRAME_MS
        self._refuse = options.get("refuse")
        self._said = 0
        self._quiet = 0
        self._speaking: str | None = None
        self._names: Iterator[int] = iter(range(1, 1 << 31))
        self._lost = False
        self._pending_tools: set[str] = set()
        self.heard: list[str] = []  # for assertions: what it was told to remember or forget
        self.opening: Opening | None = None

    async def open(self, opening: Opening) -> None:
        """Ready at once, unless told to refuse."""
        self.opening = opening
        if self._refuse:
            raise BackendError("refused", str(self._refuse), retry=False)
        self._said = sum(1 for item in opening.history if getattr(item, "role", "") == "assistant")

    def feed(self, pcm: bytes) -> bool:
        """Detect turns by level: two loud frames begin one, silence ends it."""
        if self._lost:
            return False
        if rms(pcm) >= self._start_rms:
            self._quiet = 0
            if self._speaking is None:
                self._speaking = self._name("caller")
                self._emit(SpeechStarted(self._speaking))
        elif self._speaking is not None:
            self._quiet += 1
            if self._quiet >= self._silence_frames:
                item, self._speaking, self._quiet = self._speaking, None, 0
                self._emit(SpeechStopped(item))
                self._emit(CallerTranscript(item, "(speech)"))
                self._respond(asked=False)
        return True

    def start_response(self, wish: Wish) -> None:
        """Say the next entry."""
        self._respond(asked=True)

    def cancel_response(self, response: str) -> None:
        """Responses are over as soon as they began."""

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """Note it."""
        self.heard.append(f"truncate:{item}:{content_index}:{audio_end_ms}")

    def delete_item(self, item: str) -> None:
        """Note it."""
        self.heard.append(f"delete:{item}")

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """Go on with the next entry when all outputs are in."""
        self.heard.append(f"tool:{tool_call_id}:{output}")
        self._pending_tools.discard(tool_call_id)
        if not self._pending_tools:
            self._respond(asked=True)

    def tick(self, now: float) -> None:
        """Nothing is due."""

    async def close(self) -> None:
        """Emit nothing more."""
        self._lost = True

    def _name(self, prefix: str) -> str:
        return f"{prefix}-{next(self._names)}"

    def _respond(self, *, asked: bool) -> None:
        if self._lost or not self._entries:
            return
        steps: Sequence[str] = self._entries[min(self._said, len(self._entries) - 1)]
        self._said += 1
        response, item = self._name("response"), self._name("agent")
        self._emit(ResponseStarted(response, asked))
        for step in steps:
            verb, _, rest = step.partition(":")
            if verb == "fail":
                self._emit(ResponseEnded(response, "failed", rest, (item,)))
                return
            if verb == "lose":
                self._lost = True
                self._emit(Lost("scripted", rest))
                return
            self._step(response, item, verb, rest)
        self._emit(TextEnded(response, item, 0, ""))
        self._emit(AudioEnded(response, item, 0))
        self._emit(ResponseEnded(response, "completed", "", (item,)))

    def _step(self, response: str, item: str, verb: str, rest: str) -> None:
        match verb:
            case "text":
                self._emit(TextDelta(response, item, 0, rest + " "))
            case "tone":
                hz, _, ms = rest.partition(":")
                self._audio(response, item, tone(float(hz), int(ms or 1000), self._rate_hz))
            case "silence":
                self._audio(response, item, silence(int(rest), self._rate_hz))
            case "tool":
                name, _, arguments = rest.partition(":")
                tool_call_id = self._name("tool")
                self._pending_tools.add(tool_call_id)
                self._emit(ToolRequested(response, tool_call_id, name, arguments or "{}"))
            case _:
                raise ValueError(f"backend_options.say: unknown step {verb!r}")

    def _audio(self, response: str, item: str, pcm: bytes) -> None:
        step = 2 * (self._rate_hz // 10 + 13)  # odd lengths, as a real server sends
        for start in range(0, len(pcm), step):
            self._emit(AudioDelta(response, item, 0, pcm[start : start + step]))
