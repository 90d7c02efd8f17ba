"""What a call would cost with each backend: a small simulation of its tokens, priced from the model table. No I/O.

A call is a row of turns of the same length. Each answer re-sends the instructions and the whole conversation; of what
was sent with the answer before, `cached_share` is cheaper. Silence is not billed, except where session time is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.ai_session.costs import Models

AUDIO_IN_PER_S = 10  # tokens: 1 per 100 ms of the caller (the API's guide to realtime costs)
AUDIO_OUT_PER_S = 20  # 1 per 50 ms of the agent

REALTIME = ("gpt-realtime-2.1", "gpt-realtime-2.1-mini")
LIVE = ("gpt-live-1",)
CHAT = ("gpt-5.6-luna", "gpt-5.6-terra", "gpt-6.1-terra")
READER = "gpt-realtime-2.1-mini"  # `speech.provider: realtime`
LOCAL = "local"
VOICES = ("gpt-4o-mini-tts", READER, "eleven_flash_v2_5", LOCAL)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a call is like; what is not asked for stands here."""

    minutes: float = 3.0
    agent_share: float = 0.45  # of the call's time: the agent speaks
    caller_share: float = 0.35  # the caller speaks; what is left is silence
    turns_per_minute: float = 4.0
    tools_per_minute: float = 1.0
    instruction_tokens: int = 1500  # with the descriptions of the tools
    tool_call_tokens: int = 40
    tool_result_tokens: int = 200
    text_tokens_per_s: float = 4.0  # of speech
    characters_per_s: float = 14.0
    sentence_s: float = 4.0  # what a voice is given at a time
    reader_tokens: int = 60  # what a Realtime session is told before each sentence it reads
    cached_share: float = 0.8

    @property
    def turns(self) -> int:
        """Answers of the agent."""
        return max(1, round(self.minutes * self.turns_per_minute))

    @property
    def agent_s(self) -> float:
        """How long the agent speaks."""
        return self.minutes * 60 * self.agent_share

    @property
    def caller_s(self) -> float:
        """How long the caller speaks."""
        return self.minutes * 60 * self.caller_share


@dataclass(frozen=True, slots=True)
class Estimate:
    """One way to serve a call. Parts in USD per call; None: the price is not known."""

    backend: str
    model: str
    voice: str
    parts: dict[str, float | None]
    models: tuple[str, ...]  # whose prices these are

    @property
    def known(self) -> float:
        """The parts whose prices are known."""
        return sum(part for part in self.parts.values() if part is not None)

    @property
    def per_call(self) -> float | None:
        """All parts, or None when one is not known: an unknown price is never taken for nothing."""
        return None if None in self.parts.values() else self.known


def estimates(models: Models, given: Assumptions, only: str | None = None) -> list[Estimate]:
    """Every backend with its usual models; `only` a model: what can be done with that one."""
    kind = models.get(only).kind if only is not None else None
    realtime = _chosen(REALTIME, only, kind == "realtime")
    live = _chosen(LIVE, only, kind == "live")
    chat = _chosen(CHAT, only, kind == "chat")
    voices = _chosen(VOICES, only, kind == "speech")
    if kind == "speech":
        chat = CHAT[:1]
    found = [_realtime(models, given, name) for name in realtime]
    found += [_live(models, given, name) for name in live]
    return found + [_pipeline(models, given, name, voice) for name in chat for voice in (voices or VOICES)]


def _chosen(usual: tuple[str, ...], only: str | None, is_its_kind: bool) -> tuple[str, ...]:
    if only is None:
        return usual
    return (only,) if is_its_kind else ()


def _realtime(models: Models, given: Assumptions, model: str) -> Estimate:
    answers = _answers(given, spoken=True)
    heard = models.cost_of_transcription(models.transcription, {}, given.caller_s)
    parts = {"model": _sum(models.cost_of_response(model, tokens) for tokens in answers), "transcription": heard}
    return Estimate("realtime", model, "", parts, (model, models.transcription))


def _live(models: Models, given: Assumptions, model: str) -> Estimate:
    """Session time, and a chat model that it delegates its tools to."""
    chat, calls = CHAT[0], round(given.minutes * given.tools_per_minute)
    delegated = {
        "text_in": given.instruction_tokens + given.tool_result_tokens,
        "text_out": given.tool_call_tokens + given.tool_result_tokens,
    }
    cost = models.cost_of_response(chat, delegated)
    parts = {
        "session": models.cost_of_session(model, given.minutes * 60),
        "model": None if cost is None else cost * calls,
    }
    return Estimate("live", model, "", parts, (model, chat))


def _pipeline(models: Models, given: Assumptions, model: str, voice: str) -> Estimate:
    parts = {
        "model": _sum(models.cost_of_response(model, tokens) for tokens in _answers(given, spoken=False)),
        "transcription": models.cost_of_transcription(models.transcription, {}, given.caller_s),
        "speech": 0.0 if voice == LOCAL else _speech(models, given, voice),
    }
    used = (model, models.transcription) if voice == LOCAL else (model, models.transcription, voice)
    return Estimate("pipeline", model, voice, parts, used)


def _speech(models: Models, given: Assumptions, voice: str) -> float | None:
    if models.get(voice).kind != "realtime":
        characters = round(given.agent_s * given.characters_per_s)
        text, audio = round(given.agent_s * given.text_tokens_per_s), round(given.agent_s * AUDIO_OUT_PER_S)
        tokens = {"text_in": text, "audio_out": audio}
        return models.cost_of_speech(voice, characters=characters, tokens=tokens, seconds=given.agent_s)
    text = round(given.agent_s * given.text_tokens_per_s)
    sentences = max(1, round(given.agent_s / given.sentence_s))
    read = {"text_in": text + sentences * given.reader_tokens, "text_out": text}
    return models.cost_of_response(voice, {**read, "audio_out": round(given.agent_s * AUDIO_OUT_PER_S)})


def _answers(given: Assumptions, *, spoken: bool) -> Iterator[dict[str, int]]:
    """The usage of each response; `spoken`: the model hears and speaks, else it reads and writes."""
    turns, per_turn = given.turns, given.minutes * given.tools_per_minute / given.turns
    said_s, heard_s = given.agent_s / turns, given.caller_s / turns
    said_text = round(said_s * given.text_tokens_per_s)
    said_audio = round(said_s * AUDIO_OUT_PER_S) if spoken else 0
    heard_text = 0 if spoken else round(heard_s * given.text_tokens_per_s)
    heard_audio = round(heard_s * AUDIO_IN_PER_S) if spoken else 0
    text, audio = given.instruction_tokens, 0
    before_text = before_audio = 0
    tools_due = 0.0
    for _ in range(turns):
        text, audio, tools_due = text + heard_text, audio + heard_audio, tools_due + per_turn
        outputs = [(said_text, said_audio, 0)]
        if tools_due >= 1 - 1e-9:
            tools_due -= 1
            outputs.insert(0, (given.tool_call_tokens, 0, given.tool_result_tokens))
        for made_text, made_audio, result in outputs:
            yield {
                "text_in": text,
                "text_cached": int(before_text * given.cached_share),
                "audio_in": audio,
                "audio_cached": int(before_audio * given.cached_share),
                "text_out": made_text,
                "audio_out": made_audio,
            }
            before_text, before_audio = text, audio
            text, audio = text + made_text + result, audio + made_audio


def _sum(costs: Iterator[float | None]) -> float | None:
    found = list(costs)
    return None if None in found else sum(cost for cost in found if cost is not None)
