"""One response of a pipeline call, from the wish to its last audio.

The chat model writes, pieces of its text go to the voice as soon as they can be spoken, and their audio goes on in
order: the caller hears the beginning before the end is written. Tools that the model calls are asked for when it has
finished writing, without waiting for the voice. When the model breaks off in the middle, it is asked for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from services.ai_session.backends.chat_reply import CallWritten, ChatReply
from services.ai_session.backends.chat_request import ChatRequest
from services.ai_session.backends.pipeline_history import PipelineHistory, ToolCall
from services.ai_session.backends.pipeline_speech import Speech
from services.ai_session.backends.pipeline_stages import Stages
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    Emit,
    TextDelta,
    TextEnded,
    ToolRequested,
    Trouble,
    UsageCounted,
)
from services.ai_session.backends.sentences import Sentences
from services.ai_session.backends.stage_errors import StageError
from services.ai_session.phrases import Verbatim
from services.ai_session.voices.port import Voice

CHARACTERS_PER_TOKEN = 4  # of text whose usage no server has told
LONGEST_VERBATIM = 1000  # characters that the voice gets in one piece, as they were rendered ahead

_GO_ON = (
    "Your last message was cut off while you wrote it, and the caller hears it as it stands. Go on exactly behind its "
    "last word; repeat nothing and do not mention it."
)


@dataclass(slots=True)
class Outcome:
    """How a response ended, unless it was cancelled."""

    status: Literal["completed", "failed", "incomplete"] = "completed"
    detail: str = ""
    lost: StageError | None = None  # with this configuration nothing will ever come


@dataclass(frozen=True, slots=True)
class Parts:
    """What the responses of a call have in common; `new_id` makes a name with a prefix."""

    stages: Stages
    voice: Voice
    history: PipelineHistory
    emit: Emit
    new_id: Callable[[str], str]


class PipelineResponse:
    """`run` it once, as a task; cancel the task to stop it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.name = parts.new_id("resp")
        self._item = parts.new_id("item")
        self.outcome = Outcome()
        stages = parts.stages
        self._speech = Speech(parts.voice, stages.models, self, lambda s: stages.times.note("first_speech", s))
        self._said: list[str] = []
        self._broke_off = False  # the model failed in the middle of writing

    @property
    def items(self) -> tuple[str, ...]:
        """Its message, once something of it was spoken."""
        return (self._item,) if self._said else ()

    async def run(self, wish: Verbatim | ChatRequest) -> None:
        """Until all of it was emitted."""
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(wish))
            failure = await self._speech.run()
            if failure is not None:
                writing.cancel()
                self._fail(failure)
        if self._said:
            self._parts.emit(TextEnded(self.name, self._item, 0, " ".join(self._said)))
            self._parts.emit(AudioEnded(self.name, self._item, 0))

    async def _write(self, wish: Verbatim | ChatRequest) -> None:
        if isinstance(wish, Verbatim):
            whole = len(wish.text) <= LONGEST_VERBATIM
            for piece in [wish.text] if whole else _pieces(wish.text):
                self._speech.say(piece)
        else:
            await self._answer(wish)
        self._speech.finish()

    async def _answer(self, request: ChatRequest) -> None:
        """Ask, and once more when the model breaks off: for the rest, if something was given to the voice already."""
        handed: list[str] = []
        failure = await self._ask(request, handed)
        if failure is not None and failure.retry and self._broke_off:
            self._parts.emit(Trouble(failure.code, str(failure)))
            failure = await self._ask(_rest_of(request, " ".join(handed)) if handed else request, handed)
        if failure is not None:
            self._fail(failure)

    async def _ask(self, request: ChatRequest, handed: list[str]) -> StageError | None:
        """One request; whole pieces of its answer go to the voice and into `handed`. What went wrong, if anything."""
        stages, reply, sentences = self._parts.stages, ChatReply(), Sentences()
        loop = asyncio.get_running_loop()
        asked_at, is_first, is_read = loop.time(), True, False

        def say(pieces: list[str]) -> None:
            handed.extend(pieces)
            for piece in pieces:
                self._speech.say(piece)

        def on_text(text: str) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                stages.times.note("first_token", loop.time() - asked_at)
            say(sentences.push(text))

        try:
            written = await stages.chat_model.answer(request, reply, on_text)
        except StageError as failure:
            self._broke_off = reply.has_begun
            return failure
        except asyncio.CancelledError:
            is_read = True  # what was asked is paid for, if the caller did not wait for the answer
            raise
        finally:
            if is_read or reply.has_begun or reply.usage:
                self._parts.emit(self._usage(request, reply))
        say([*sentences.push(written.text), *sentences.end()])
        self.outcome = Outcome(written.status, written.detail)
        if written.calls:
            self._call_tools(written.calls)
        return None

    def _call_tools(self, calls: tuple[CallWritten, ...]) -> None:
        """Under names of our own: servers repeat theirs from answer to answer, or send none; one template wants nine
        letters or digits, which is what `new_id` makes.
        """
        named = [ToolCall(self._parts.new_id(""), call.name, call.arguments) for call in calls]
        self._parts.history.tool_calls(self.name, named)
        for call in named:
            self._parts.emit(ToolRequested(self.name, call.tool_call_id, call.name, call.arguments))

    def _usage(self, request: ChatRequest, reply: ChatReply) -> UsageCounted:
        """As the server told it; an estimate where it does not, or where the answer was cut off before it did."""
        tokens = reply.usage or {
            "text_in": sum(len(str(message)) for message in request.messages) // CHARACTERS_PER_TOKEN,
            "text_out": -(-reply.characters // CHARACTERS_PER_TOKEN),
        }
        cost = self._parts.stages.models.cost_of_response(request.model, tokens)
        return UsageCounted("response", request.model, self.name, tokens, cost_usd=cost)

    def _fail(self, failure: StageError) -> None:
        self.outcome = Outcome("failed", f"{failure.code}: {failure}", failure if failure.final else None)

    # -- speech, in order --------------------------------------------------------------------------------------

    def piece_began(self, text: str) -> None:
        """See `SpeechSink`. The text goes before its audio."""
        self._parts.history.say(self.name, self._item, text)
        self._parts.emit(TextDelta(self.name, self._item, 0, f" {text}" if self._said else text))
        self._said.append(text)

    def piece_audio(self, pcm: bytes) -> None:
        """See `SpeechSink`."""
        self._parts.history.spoken(self._item, len(pcm) // 2)
        self._parts.emit(AudioDelta(self.name, self._item, 0, pcm))

    def piece_ended(self) -> None:
        """See `SpeechSink`."""
        self._parts.history.piece_complete(self._item)

    def speech_cost(self, usage: UsageCounted) -> None:
        """See `SpeechSink`."""
        self._parts.emit(replace(usage, reference=self.name))


def _rest_of(request: ChatRequest, said: str) -> ChatRequest:
    """The same request for what is still to be said."""
    first, *others = request.messages
    if first["role"] != "system":
        first, others = {"role": "system", "content": ""}, list(request.messages)
    told = {**first, "content": f"{first['content']}\n\n{_GO_ON}".strip()}
    return replace(request, messages=[told, *others, {"role": "assistant", "content": said}])


def _pieces(text: str) -> list[str]:
    sentences = Sentences()
    return [*sentences.push(text), *sentences.end()]
