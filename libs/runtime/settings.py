"""Settings that all services share; each service derives its own class. Only settings.py reads the environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) and value.upper() in LEVELS else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
Port = Annotated[int, Field(ge=0, le=65535)]


class ServiceSettings(BaseSettings):
    """Read from the environment, then from `.env`; unknown names are left to other programs."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    nats_url: str = Field("nats://127.0.0.1:4222", description="Server of the bus; may carry user:password")
    log_level: LogLevel = Field("INFO", description="Least level that is logged")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON")
    health_host: str = Field("127.0.0.1", description="Where /healthz, /readyz and /metrics listen")
    health_port: Port = Field(
        0, validation_alias=AliasChoices("HEALTH_PORT", "health_port"), description="0 picks a free port"
    )
