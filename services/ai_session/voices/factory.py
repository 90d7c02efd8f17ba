"""Which voice speaks for an agent; calls that sound the same share one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import openai

from libs.contracts.agent import AgentConfig
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.costs import Models
from services.ai_session.settings import Settings
from services.ai_session.voices.openai_speech import OpenAISpeech, client_of
from services.ai_session.voices.port import Sound, Voice

SPEECH_MODEL = "gpt-4o-mini-tts"
SPEECH_ENDPOINT_ENDS = date(2027, 1, 6)  # OpenAI's deprecations page, /v1/audio/speech with all its models
WARN_DAYS_AHEAD = 120

log = get_logger()


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider and what it is asked for."""

    provider: str
    model: str
    voice: str


class Voices:
    """The voices of a worker, made when an agent first needs them.

    A call does not close its voice: others may speak with it. `close` closes all.
    """

    def __init__(self, settings: Settings, models: Models, today: Callable[[], date] = date.today) -> None:
        self._settings = settings
        self._models = models
        self._today = today
        self._voices: dict[Sound, Voice] = {}
        self._client: openai.AsyncOpenAI | None = None
        self._warned: set[str] = set()

    def for_agent(self, agent: AgentConfig, rate_hz: int) -> Voice:
        """The voice that an agent's texts are spoken with, at the call's rate.

        Raises:
            UnsupportedAgentError: this worker has no such voice; the sentence says what is missing.
        """
        choice = self.choose(agent)
        sound = Sound(
            choice.provider,
            choice.model,
            choice.voice,
            rate_hz,
            agent.speed or 1.0,
            agent.languages[0] if agent.languages else "",
            agent.speech.instructions or "",
        )
        voice = self._voices.get(sound)
        if voice is None:
            voice = self._voices[sound] = self._make(sound)
        return voice

    def choose(self, agent: AgentConfig) -> Choice:
        """Provider, model and voice of an agent.

        The agent's own `voice` counts where it is the chosen provider's: with `realtime` and `openai`, whose voices
        are the same, and where the agent names its provider.
        """
        speech, settings = agent.speech, self._settings
        provider = speech.provider or ("realtime" if agent.backend == "realtime" else settings.speech_provider)
        own = agent.voice if speech.provider is not None or provider in ("openai", "realtime") else None
        voice = speech.voice or own
        match provider:
            case "openai":
                model = speech.model or SPEECH_MODEL
                return Choice(provider, model, voice or ("alloy" if model.startswith("tts-1") else self._models.voice))
            case _:
                raise UnsupportedAgentError(f"speech.provider {provider!r} is not available on this worker")

    async def close(self) -> None:
        """Close all voices; safe to call twice."""
        voices, self._voices = list(self._voices.values()), {}
        for voice in voices:
            await voice.close()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _make(self, sound: Sound) -> Voice:
        return self._openai(sound)

    def _openai(self, sound: Sound) -> Voice:
        settings = self._settings
        base_url = settings.speech_base_url or settings.openai_base_url
        secret = settings.speech_api_key or settings.openai_api_key
        if secret is None and "api.openai.com" in base_url:
            raise UnsupportedAgentError("speech.provider 'openai' needs OPENAI_API_KEY or SPEECH_API_KEY")
        if self._client is None:
            self._client = client_of(base_url, secret.get_secret_value() if secret is not None else "")
        self._warn_of_end(sound.model, base_url)
        return OpenAISpeech(self._client, sound, self._models)

    def _warn_of_end(self, model: str, base_url: str) -> None:
        """Once per model, in time to choose another voice."""
        ends = self._models.get(model).shutdown
        if "api.openai.com" in base_url:
            ends = min(ends or SPEECH_ENDPOINT_ENDS, SPEECH_ENDPOINT_ENDS)
        if ends is None or model in self._warned:
            return
        self._warned.add(model)
        days = (ends - self._today()).days
        if days <= WARN_DAYS_AHEAD:
            log.warning(
                "the voice will be shut down: use speech.provider realtime, elevenlabs or local, or another "
                "SPEECH_BASE_URL",
                model=model,
                ends=ends.isoformat(),
                days=days,
            )
