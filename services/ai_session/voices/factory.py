"""Which voice speaks for an agent; calls that sound the same share one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import date

from libs.contracts.agent import AgentConfig
from libs.runtime.log import get_logger
from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import Models
from services.ai_session.model_watch import READING_MODEL, WARN_DAYS
from services.ai_session.settings import Settings, is_openai
from services.ai_session.voices.cache import CachedVoice, SpeechCache
from services.ai_session.voices.patient import PatientVoice
from services.ai_session.voices.port import Sound
from services.ai_session.voices.providers import Providers
from services.ai_session.voices.renderings import Renderings

SPEECH_ENDPOINT_ENDS = date(2027, 1, 6)  # OpenAI's deprecations page, /v1/audio/speech with all its models

log = get_logger()


class Voices:
    """The voices of a worker, made when an agent first needs them.

    What it gives out asks the cache first and repeats short trouble. A call does not close its voice: others may
    speak with it. `close` closes all.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        cache: SpeechCache | None = None,
        endpoint: Endpoint | None = None,
        today: Callable[[], date] = date.today,
    ) -> None:
        self.cache = cache or SpeechCache(None, settings.speech_cache_bytes)
        self.counters: Counter[str] = Counter()
        self._settings = settings
        self._models = models
        self._today = today
        self._voices: dict[Sound, CachedVoice] = {}
        self._renderings: dict[Sound, Renderings] = {}
        self._providers = Providers(settings, models, endpoint, self.counters)
        self._warned: set[str] = set()

    def for_agent(self, agent: AgentConfig, rate_hz: int) -> CachedVoice:
        """The voice that an agent's texts are spoken with, at the call's rate.

        Raises:
            UnsupportedAgentError: this worker has no such voice; the sentence says what is missing.
        """
        sound = self.sound_of(agent, rate_hz)
        voice = self._voices.get(sound)
        if voice is None:
            made = self._providers.make(sound)
            if sound.provider == "openai":
                self._warn_of_end(sound.model)
            patient = PatientVoice(made, self.counters, lambda: random.uniform(0.7, 1.3))
            voice = self._voices[sound] = CachedVoice(patient, self.cache)
        return voice

    def renderings_for(self, agent: AgentConfig, rate_hz: int) -> Renderings:
        """What is rendered ahead for an agent (fillers, idle prompts), at the call's rate.

        Raises:
            UnsupportedAgentError: see `for_agent`.
        """
        voice = self.for_agent(agent, rate_hz)
        found = self._renderings.get(voice.sound)
        if found is None:
            found = self._renderings[voice.sound] = Renderings(voice, self.counters)
        return found

    def sound_of(self, agent: AgentConfig, rate_hz: int) -> Sound:
        """Provider, model and voice of an agent.

        The agent's own `voice` counts where it is the chosen provider's: with `realtime` and `openai`, whose voices
        are the same, and where the agent names its provider.

        Raises:
            UnsupportedAgentError: no voice is named and there is no default.
        """
        speech, settings = agent.speech, self._settings
        provider = speech.provider or ("realtime" if agent.backend == "realtime" else settings.speech_provider)
        own = agent.voice if speech.provider is not None or provider in ("openai", "realtime") else None
        voice = speech.voice or own
        match provider:
            case "openai":
                model = speech.model or settings.openai_tts_model
                usual = "alloy" if model.startswith("tts-1") else self._models.voice  # tts-1 has not all of them
                voice = voice or settings.openai_tts_voice or usual
            case "realtime":
                same = (agent.model or settings.openai_model) if agent.backend == "realtime" else READING_MODEL
                model = speech.model or same
                voice = voice or (None if agent.backend == "realtime" else settings.openai_tts_voice)
                voice = voice or self._models.voice
            case "elevenlabs":
                model = speech.model or settings.elevenlabs_model
                voice = voice or settings.elevenlabs_voice_id
                if voice is None:
                    raise UnsupportedAgentError(
                        "speech.provider 'elevenlabs' needs a voice: set speech.voice or ELEVENLABS_VOICE_ID"
                    )
            case _:  # local
                program = self._providers.program()
                model = str(program.voice_file or program.name)
                voice = voice or ""
        return Sound(
            provider,
            model,
            voice,
            rate_hz,
            agent.speed or 1.0,
            _language(agent, provider),
            (speech.instructions or "") if provider in ("openai", "realtime") else "",
            self._providers.url_of(provider),
        )

    async def close(self) -> None:
        """Close all voices; safe to call twice."""
        await self.cache.close()
        voices, self._voices = list(self._voices.values()), {}
        self._renderings.clear()
        for voice in voices:
            await voice.close()
        await self._providers.close()

    def _warn_of_end(self, model: str) -> None:
        """Once per model, in time to choose another voice."""
        entry = self._models.get(model)
        ends = entry.shutdown
        if is_openai(self._providers.speech_url):
            ends = min(ends or SPEECH_ENDPOINT_ENDS, SPEECH_ENDPOINT_ENDS)
        if ends is None or model in self._warned:
            return
        self._warned.add(model)
        days = (ends - self._today()).days
        if days <= WARN_DAYS:
            log.warning(
                "the voice will be shut down: use speech.provider realtime, elevenlabs or local, or another "
                "SPEECH_BASE_URL",
                model=model,
                ends=ends.isoformat(),
                days=days,
                replacement=entry.replacement,
            )


def _language(agent: AgentConfig, provider: str) -> str:
    """What a voice is told to speak; nothing where it hears by itself which of several languages a text is in."""
    if provider == "elevenlabs" and len(agent.languages) > 1:  # its `language_code` would read all of them as one
        return ""
    return agent.languages[0] if agent.languages else ""
