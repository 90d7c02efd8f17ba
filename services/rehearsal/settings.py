"""Settings of the rehearsal server, read from ``REHEARSAL_*``."""

from __future__ import annotations

from datetime import date
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.rehearsal.responses import Pace


class RehearsalSettings(BaseSettings):
    """Where to listen, what to rehearse, and how fast."""

    model_config = SettingsConfigDict(env_prefix="REHEARSAL_", extra="ignore")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=0, ge=0, le=65535, description="TCP port; 0 takes a free one")
    scenarios: Annotated[list[Path], NoDecode] = Field(
        default=[], description="scenario files or folders, separated by commas, added to the built-in ones"
    )
    default_scenario: str = Field(default="echo-back", description="for sessions that name none")
    api_key: SecretStr | None = Field(default=None, description="the only accepted key; any if unset")
    seed: int | None = Field(default=None, description="makes delta lengths and ids reproducible")
    speed: float = Field(default=8.0, gt=0, description="audio generated per second of real time")
    first_byte_ms: float = Field(default=150.0, ge=0, description="from response.created to the first item")
    tool_call_ms: float = Field(default=80.0, ge=0, description="to write the arguments of one tool call")
    transcription_delay_ms: float = Field(default=350.0, ge=0, description="after the commit")
    chat_first_token_ms: float = Field(default=200.0, ge=0, description="chat: until the first token")
    chat_tokens_per_s: float = Field(default=100.0, ge=0, description="chat: speed of writing; 0 is at once")
    transcribe_ms: float = Field(default=250.0, ge=0, description="transcriptions: until the first words")
    speech_first_byte_ms: float = Field(default=200.0, ge=0, description="speech and ElevenLabs: until the first audio")
    models: Annotated[list[str], NoDecode] = Field(
        default=[], description="further model ids that the HTTP endpoints take, separated by commas"
    )
    elevenlabs_concurrency: int = Field(
        default=0, ge=0, description="ElevenLabs: requests at once before it answers 429; 0 is any number"
    )
    today: date | None = Field(default=None, description="the day by which models have ended; default today")
    session_limit_s: float = Field(default=3600.0, gt=0, description="after which a session expires")
    self_check: bool = Field(default=False, description="check every event sent against the openai package")
    admin_networks: Annotated[list[IPv4Network | IPv6Network], NoDecode] = Field(
        default=[IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")],
        description="networks that may read sessions and order faults, separated by commas",
    )
    log_level: str = Field(default="INFO", description="level of the log on stderr")

    @field_validator("scenarios", "models", "admin_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @property
    def pace(self) -> Pace:
        return Pace(speed=self.speed, first_byte_ms=self.first_byte_ms, tool_call_ms=self.tool_call_ms)
