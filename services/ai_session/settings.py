"""Settings of the AI worker; the only place of the service that reads the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from libs.runtime.settings import ServiceSettings

BUILT_IN_MODELS = Path(__file__).with_name("models.toml")


class Settings(ServiceSettings):
    """What a worker needs beyond the bus."""

    openai_api_key: SecretStr | None = Field(None, description="Key of the speech API")
    openai_base_url: str = Field("https://api.openai.com/v1", description="Endpoint of the speech API")
    openai_model: str = Field("gpt-realtime-2.1", description="Model of agents that name none")
    worker_capacity: Annotated[int, Field(ge=1, le=10_000)] = Field(50, description="Calls served at a time")
    worker_drain_timeout_s: Annotated[float, Field(ge=0, le=600)] = Field(
        5.0, description="How long a call may go on before it is handed over at shutdown"
    )
    models_file: Path = Field(BUILT_IN_MODELS, description="Model ids, prices and shutdown dates (TOML)")
