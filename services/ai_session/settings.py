"""Settings of the AI worker; the only place of the service that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from libs.object_store.settings import ObjectStoreSettings

BUILT_IN_MODELS = Path(__file__).with_name("models.toml")


class Settings(ObjectStoreSettings):
    """What a worker needs beyond the bus."""

    openai_api_key: SecretStr | None = Field(None, description="Key of the speech API")
    openai_base_url: str = Field("https://api.openai.com/v1", description="Endpoint of the speech API")
    openai_model: str = Field("gpt-realtime-2.1", description="Model of agents with backend realtime that name none")
    live_model: str = Field("gpt-live-1", description="Model of agents with backend live that name none")
    chat_model: str = Field("gpt-5.6-luna", description="Model of agents with backend pipeline that name none")
    transcription_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint of the pipeline's transcription; default OPENAI_BASE_URL"
    )
    transcription_api_key: SecretStr | None = Field(
        None, description="Its key; default OPENAI_API_KEY if it is at the address of OPENAI_BASE_URL, else none"
    )
    chat_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint of the pipeline's chat model; default OPENAI_BASE_URL"
    )
    chat_api_key: SecretStr | None = Field(
        None, description="Its key; default OPENAI_API_KEY if it is at the address of OPENAI_BASE_URL, else none"
    )
    speech_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint of the voice `openai`; default OPENAI_BASE_URL"
    )
    speech_api_key: SecretStr | None = Field(
        None, description="Its key; default OPENAI_API_KEY if it is at the address of OPENAI_BASE_URL, else none"
    )
    speech_provider: Literal["openai", "realtime", "elevenlabs", "local"] = Field(
        "openai", description="Voice of agents that name none and whose model has none"
    )
    openai_tts_model: str = Field("gpt-4o-mini-tts", description="Model of the voice `openai`")
    openai_tts_voice: str | None = Field(
        None,
        description="Voice of the voices `openai` and `realtime` for agents that name none; default: the model table's",
    )
    elevenlabs_api_key: SecretStr | None = Field(None, description="Key of ElevenLabs")
    elevenlabs_voice_id: str | None = Field(None, description="Voice of agents that name none")
    elevenlabs_model: str = Field("eleven_flash_v2_5", description="Model of agents that name none")
    elevenlabs_base_url: str = Field("https://api.elevenlabs.io", description="Endpoint of ElevenLabs")
    speech_cache_bytes: Annotated[int, Field(ge=0)] = Field(
        64 << 20, description="Rendered speech kept in memory, in front of the object store"
    )
    piper_voice: Path | None = Field(
        None, description="A voice file of piper for speech_provider local; without it espeak-ng speaks"
    )
    mcp_tokens: dict[str, SecretStr] = Field(
        {}, description='Tokens of MCP servers by the names that agents use, as JSON: {"crm": "..."}'
    )
    worker_capacity: Annotated[int, Field(ge=1, le=10_000)] = Field(50, description="Calls served at a time")
    worker_spare_sessions: Annotated[int, Field(ge=0, le=100)] = Field(
        1, description="Realtime sessions kept open for callers whose own is lost or ends"
    )
    session_max_s: Annotated[float, Field(ge=2, le=86_400)] = Field(
        3600.0, description="How long the model's server lets a session last, unless it says less itself"
    )
    worker_drain_timeout_s: Annotated[float, Field(ge=0, le=600)] = Field(
        5.0, description="How long a call may go on before it is handed over at shutdown"
    )
    models_file: Path = Field(BUILT_IN_MODELS, description="Model ids, prices and shutdown dates (TOML)")

    def stage_key(self, base_url: str | None, own: SecretStr | None) -> str:
        """The key for a stage at `base_url` (None: OPENAI_BASE_URL) whose own key is `own`; empty for none.

        OPENAI_API_KEY is told to the scheme, host and port of OPENAI_BASE_URL, and to no other server.
        """
        if own is None and base_url is not None and _origin(base_url) != _origin(self.openai_base_url):
            return ""
        key = own or self.openai_api_key
        return key.get_secret_value() if key is not None else ""


def is_openai(base_url: str) -> bool:
    """Whether this is the original, which insists on a key and has models that end; compatible servers may differ."""
    return "api.openai.com" in base_url


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
