"""The pipeline: voice detection here, then transcription, a chat model and a voice, each at an endpoint of its own.

The shell of one call around `vad_utterances`, `pipeline_history` and `pipeline_requests`. It detects turns, and leaves
it to the session what they mean: when to answer, what an interruption is, what was heard. Nothing is kept at a server,
so there is no connection to lose; `Lost` means that an endpoint refuses the key, the quota is used up or the model is
unknown.
"""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from libs.audio.vad import EnergyVad, GateTimes, Vad
from libs.audio.vad_utterances import UtteranceBegan, UtteranceDropped, UtteranceEnded, Utterances
from libs.contracts.offer import Offer
from libs.runtime.log import get_logger
from services.ai_session.backends import realtime_config
from services.ai_session.backends.chat_request import ChatRequest, tool_of
from services.ai_session.backends.factory import BackendPlan
from services.ai_session.backends.neural_vad import NeuralVad, load_network
from services.ai_session.backends.pipeline_history import PipelineHistory
from services.ai_session.backends.pipeline_requests import Begin, PipelineRequests
from services.ai_session.backends.pipeline_response import Parts, PipelineResponse
from services.ai_session.backends.pipeline_stages import Stages
from services.ai_session.backends.port import (
    BackendEvent,
    CallerTranscript,
    Capabilities,
    Emit,
    Lost,
    Opening,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    Trouble,
    UsageCounted,
)
from services.ai_session.backends.stage_errors import StageError
from services.ai_session.phrases import Told, Verbatim, Wish, as_instructions
from services.ai_session.voices.port import Voice

log = get_logger()

CAPABILITIES = Capabilities(server_interrupts=False, answers=False, needs_transcript=True)
DEFAULT_EFFORT = "low"  # of reasoning models: a caller waits, and their own default thinks for seconds
_LETTERS = string.ascii_letters + string.digits


def plan_pipeline(stages: Stages, offer: Offer) -> BackendPlan:
    """The pipeline for this call.

    Raises:
        UnsupportedAgentError: this worker lacks a key, the voice or the voice detection that the agent wants.
    """
    stages.require_keys()
    voice = stages.voices.for_agent(offer.agent, offer.state.rate_hz)
    vad_of(offer)
    # Chat and speech fail a response alike: one provider's limit must not close another's voice.
    limit = f"pipeline {offer.agent.model or stages.chat_model_name} {voice.sound.provider} {voice.sound.model}"
    return BackendPlan(CAPABILITIES, lambda emit: PipelineBackend(stages, voice, offer, emit), limit=limit)


def vad_of(offer: Offer) -> Vad:
    """The voice detection that the agent wants, for one stream.

    Raises:
        UnsupportedAgentError: it is not installed.
    """
    turns, rate_hz = offer.agent.turns, offer.state.rate_hz
    if turns.mode == "neural":
        likely = 0.5 if turns.threshold is None else turns.threshold
        return NeuralVad(load_network(), rate_hz, likely, gate_times_of(offer))
    return EnergyVad(rate_hz, turns.threshold or -40.0, gate_times_of(offer))  # a level of 0 is no level


def gate_times_of(offer: Offer) -> GateTimes:
    """The agent's durations."""
    turns = offer.agent.turns
    return GateTimes(turns.prefix_padding_ms, turns.silence_ms or 1000, turns.min_speech_ms)


def new_id(prefix: str) -> str:
    """A name that no other call and no other connection of this call uses; nine letters or digits without prefix."""
    drawn = "".join(secrets.choice(_LETTERS) for _ in range(9))
    return f"{prefix}_{drawn}" if prefix else drawn


class PipelineBackend:
    """One call's pipeline; see `SpeechBackend`."""

    capabilities = CAPABILITIES

    def __init__(self, stages: Stages, voice: Voice, offer: Offer, emit: Emit) -> None:
        agent, rate_hz = offer.agent, offer.state.rate_hz
        self._stages, self._agent, self._rate_hz, self._emit_on = stages, agent, rate_hz, emit
        self._call = offer.call
        self._utterances = Utterances(vad_of(offer), rate_hz, gate_times_of(offer))
        self._history = PipelineHistory(rate_hz, agent.limits.history_tokens, agent.limits.truncation_ratio)
        self._requests = PipelineRequests()
        self._parts = Parts(stages, voice, self._history, self._emit, new_id)
        self._transcription = realtime_config.transcription(agent, stages.models)
        self._model = agent.model or stages.chat_model_name
        self._instructions = ""
        self._tools: list[dict[str, Any]] = []
        self._turn = ""  # the item of the utterance under way
        self._response: PipelineResponse | None = None
        self._responding: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._over = False

    # -- the shell's frame ------------------------------------------------------------------------------------

    async def open(self, opening: Opening) -> None:
        """See the port. The endpoints are asked whether they can be had; nothing is paid for."""
        await self._stages.check(asyncio.get_running_loop().time())
        self._instructions = opening.instructions
        self._tools = [tool_of(tool) for tool in opening.tools]
        self._history.replay(opening.history)
        ready = asyncio.Event()
        self._runner = asyncio.create_task(self._run(ready), name="pipeline")
        await ready.wait()

    async def _run(self, ready: asyncio.Event) -> None:
        """The parent of all that waits; ends by being cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                ready.set()
                await asyncio.Event().wait()
        except* Exception as group:  # the top of the call's tasks here: a defect ends this connection, not the worker
            log.exception("the pipeline broke", problem="; ".join(map(repr, group.exceptions)))
            self._lose("defect", "the pipeline broke")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        if self._group is None or self._over:
            work.close()
            return None
        return self._group.create_task(work)

    async def close(self) -> None:
        """See the port."""
        self._over = True
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            with suppress(asyncio.CancelledError):
                await runner

    def _emit(self, event: BackendEvent) -> None:
        if not self._over:
            self._emit_on(event)

    def _lose(self, code: str, detail: str, *, retry: bool = True) -> None:
        self._emit(Lost(code, detail, retry))
        self._over = True
        if self._runner is not None:
            self._runner.cancel()

    # -- the caller ----------------------------------------------------------------------------------------------

    def feed(self, pcm: bytes) -> bool:
        """See the port."""
        if self._over:
            return False
        event = self._utterances.push(pcm)
        if event is None:
            return True
        match event:
            case UtteranceBegan():
                self._turn = new_id("turn")
                self._requests.turn_opened(self._turn)
                self._emit(SpeechStarted(self._turn))
            case UtteranceDropped():
                self._stages.counters["discarded"] += 1
                self._emit(SpeechDiscarded(self._turn))
                self._begin(self._requests.turn_closed(self._turn))
            case UtteranceEnded(spoken, _):
                self._history.caller_turn(self._turn)
                self._emit(SpeechStopped(self._turn))
                self._spawn(self._transcribe(self._turn, spoken))
        return True

    async def _transcribe(self, item: str, pcm: bytes) -> None:
        """Words that do not come are no end of the call: the session asks for them again."""
        loop, stages, seconds = asyncio.get_running_loop(), self._stages, len(pcm) / 2 / self._rate_hz
        began_at = loop.time()
        try:
            transcript = await stages.transcriber.transcribe(pcm, self._rate_hz, self._transcription)
        except StageError as failure:
            self._history.delete(item)
            self._emit(Trouble(failure.code, str(failure)))
            self._emit(CallerTranscript(item, "", failed=True))
            if failure.final:
                self._lose(failure.code, str(failure), retry=False)
        else:
            stages.times.note("transcription", loop.time() - began_at)
            model = str(self._transcription["model"])
            cost = stages.models.cost_of_transcription(model, transcript.tokens, seconds)
            self._emit(UsageCounted("transcription", model, item, transcript.tokens, round(seconds, 3), cost))
            self._history.caller_text(item, transcript.text)
            self._emit(CallerTranscript(item, transcript.text, language=transcript.language))
        self._begin(self._requests.turn_closed(item))

    # -- the agent -----------------------------------------------------------------------------------------------

    def start_response(self, wish: Wish) -> None:
        """See the port."""
        if isinstance(wish, Told):
            self._history.told(new_id("told"), wish.text)
            wish = None
        self._begin(self._requests.ask(wish))

    def tool_result(self, tool_call_id: str, output: str) -> None:
        """See the port."""
        if self._history.tool_output(tool_call_id, output):
            self._begin(self._requests.tools_complete())

    def cancel_response(self, response: str) -> None:
        """See the port: the chat stream and the voice stop at once."""
        if self._response is not None and self._response.name == response and self._responding is not None:
            self._responding.cancel()

    def truncate(self, item: str, content_index: int, audio_end_ms: int) -> None:
        """See the port."""
        self._history.truncate(item, audio_end_ms)

    def delete_item(self, item: str) -> None:
        """See the port."""
        self._history.delete(item)

    def tick(self, now: float) -> None:
        """Nothing is due: each stage has its own time limits."""

    def _begin(self, begin: Begin | None) -> None:
        if begin is None or self._over:
            return
        wish = begin.wish
        response = self._response = PipelineResponse(self._parts)
        self._emit(ResponseStarted(response.name, asked=True))
        wanted = wish if isinstance(wish, Verbatim) else self._request(as_instructions(wish))
        task = self._responding = self._spawn(response.run(wanted))
        if task is not None:
            task.add_done_callback(lambda task: self._ended(response, task))

    def _request(self, instructions: str | None) -> ChatRequest:
        """What the chat model is asked. Instructions for one response stand with the system prompt, as the templates of
        many open models know system messages only there.
        """
        agent = self._agent
        reasons = self._stages.models.get(self._model).reasoning
        return ChatRequest(
            model=self._model,
            messages=self._history.messages("\n\n".join(filter(None, (self._instructions, instructions)))),
            tools=self._tools,
            max_tokens=agent.max_output_tokens,
            reasoning_effort=(agent.reasoning_effort or DEFAULT_EFFORT) if reasons else None,
            conversation=self._call,
        )

    def _ended(self, response: PipelineResponse, task: asyncio.Task[None]) -> None:
        """Also of a response that was cancelled before it could begin to run."""
        self._response = self._responding = None
        outcome = response.outcome
        if task.cancelled():
            self._emit(ResponseEnded(response.name, "cancelled", "", response.items))
        elif task.exception() is not None:  # the group ends with it, and tells why
            self._emit(ResponseEnded(response.name, "failed", "defect", response.items))
        else:
            self._emit(ResponseEnded(response.name, outcome.status, outcome.detail, response.items))
        if outcome.lost is not None:
            self._lose(outcome.lost.code, str(outcome.lost), retry=False)
        self._begin(self._requests.ended())
