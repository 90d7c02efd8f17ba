"""Makes voices, and owns what those of a provider have in common: connections, places, the program."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import openai
from pydantic import SecretStr

from services.ai_session.backends.factory import UnsupportedAgentError
from services.ai_session.backends.realtime_link import Endpoint
from services.ai_session.costs import Models
from services.ai_session.http_client import openai_client
from services.ai_session.settings import Settings, is_openai
from services.ai_session.voices import elevenlabs
from services.ai_session.voices.elevenlabs import ElevenLabsVoice
from services.ai_session.voices.local import AT_A_TIME, LocalVoice, NoLocalVoiceError, Program, find_program
from services.ai_session.voices.openai_speech import OpenAISpeech
from services.ai_session.voices.port import Sound, Voice
from services.ai_session.voices.realtime_speech import RealtimeSpeech


class Providers:
    """What this worker can speak with. Nothing is opened before it is needed."""

    def __init__(self, settings: Settings, models: Models, endpoint: Endpoint | None, counters: Counter[str]) -> None:
        self._settings = settings
        self._models = models
        self._counters = counters
        self._endpoint = endpoint or Endpoint(
            settings.openai_base_url, _text(settings.openai_api_key), settings.openai_model, models
        )
        self._openai: openai.AsyncOpenAI | None = None
        self._elevenlabs: aiohttp.ClientSession | None = None
        self._program: Program | None = None
        self._slots: asyncio.Semaphore | None = None
        self.speech_url = settings.speech_base_url or settings.openai_base_url

    def make(self, sound: Sound) -> Voice:
        """A voice with this sound.

        Raises:
            UnsupportedAgentError: a key or a program is missing.
        """
        match sound.provider:
            case "openai":
                return OpenAISpeech(self._openai_client(), sound, self._models)
            case "realtime":
                if not self._endpoint.api_key and is_openai(self._endpoint.base_url):
                    raise UnsupportedAgentError("speech.provider 'realtime' needs OPENAI_API_KEY")
                return RealtimeSpeech(self._endpoint, sound, self._models, self._counters)
            case "elevenlabs":
                return ElevenLabsVoice(self._elevenlabs_session(), sound, self._models)
            case "local":
                self._slots = self._slots or asyncio.Semaphore(AT_A_TIME)
                return LocalVoice(self.program(), sound, self._slots)
        raise UnsupportedAgentError(f"speech.provider {sound.provider!r} is not known")

    def url_of(self, provider: str) -> str:
        """Where a provider is asked; empty for this machine."""
        match provider:
            case "openai":
                return self.speech_url
            case "realtime":
                return self._endpoint.base_url
            case "elevenlabs":
                return self._settings.elevenlabs_base_url
        return ""

    def program(self) -> Program:
        """What speaks on this machine.

        Raises:
            UnsupportedAgentError: nothing does.
        """
        try:
            self._program = self._program or find_program(self._settings.piper_voice)
        except NoLocalVoiceError as error:
            raise UnsupportedAgentError(str(error)) from None
        return self._program

    async def close(self) -> None:
        """Give connections back; safe to call twice."""
        client, self._openai = self._openai, None
        if client is not None:
            await client.close()
        session, self._elevenlabs = self._elevenlabs, None
        if session is not None:
            await session.close()

    def _openai_client(self) -> openai.AsyncOpenAI:
        key = self._settings.stage_key(self._settings.speech_base_url, self._settings.speech_api_key)
        if not key and is_openai(self.speech_url):
            raise UnsupportedAgentError(
                "speech.provider 'openai' needs SPEECH_API_KEY, or OPENAI_API_KEY for OPENAI_BASE_URL"
            )
        self._openai = self._openai or openai_client(self.speech_url, key)
        return self._openai

    def _elevenlabs_session(self) -> aiohttp.ClientSession:
        key = _text(self._settings.elevenlabs_api_key)
        if not key:
            raise UnsupportedAgentError("speech.provider 'elevenlabs' needs ELEVENLABS_API_KEY")
        self._elevenlabs = self._elevenlabs or elevenlabs.session_of(self._settings.elevenlabs_base_url, key)
        return self._elevenlabs


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
