"""What the command line reads from the environment and `.env`, under the names that users know."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cli.checkout import ROOT
from services.ai_session.settings import BUILT_IN_MODELS


class CliSettings(BaseSettings):
    """Only what decides how things are started; the services read the rest themselves."""

    model_config = SettingsConfigDict(
        env_file=ROOT / ".env", env_file_encoding="utf-8", extra="ignore", frozen=True, env_ignore_empty=True
    )

    nats_url: str | None = Field(None, description="The bus to talk to; else the running `up`'s")
    callbus_var: Path = Field(ROOT / "var", description="Databases, logs and state of `callbus up`")
    openai_api_key: str | None = Field(None, description="Set: agents speak through OpenAI, else the rehearsal does")
    openai_base_url: str | None = Field(None, description="Another endpoint with OpenAI's API")
    models_file: Path = Field(BUILT_IN_MODELS, description="Prices and shutdown dates, as the workers read them")
    sip_server: str | None = Field(None, validation_alias=AliasChoices("SIP_SERVER", "SIP_DOMAIN"))
    sip_trunks_file: str | None = Field(None, description="Trunks of the SIP gateway, as it reads them")
    sip_listen_host: str = Field("0.0.0.0", description="Where the gateway takes calls")
    sip_listen_port: int = Field(5060, ge=0, le=65535, description="Our SIP port (SIP_PORT is the trunk's)")
    sip_allowed_sources: str | None = Field(
        None, description="Networks that the gateway answers, as the gateway reads it"
    )
    browser_listen_host: str = Field("127.0.0.1", description="Address of the page, as the browser gateway reads it")
    browser_listen_port: int | None = Field(None, ge=0, le=65535, description="Port of the page; 0 picks a free one")
    twilio_account_sid: str | None = Field(None, description="Set: the Twilio gateway runs, too")
    catalog_database_url: str | None = Field(None, description="Of catalog_tools; else a file under CALLBUS_VAR")
    transcript_database_url: str | None = Field(None, description="Of transcript_store; else a file under CALLBUS_VAR")

    @property
    def state_file(self) -> Path:
        """What a running `up` says of itself."""
        return self.callbus_var / "run" / "up.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one `up` that may use this directory."""
        return self.callbus_var / "run" / "lock"

    @property
    def published_file(self) -> Path:
        """What an `up` published last of the configuration that ships."""
        return self.callbus_var / "run" / "published.json"

    @property
    def log_dir(self) -> Path:
        """One log per process."""
        return self.callbus_var / "log"


def inherited_environment() -> dict[str, str]:
    """What children start from: this process's environment, and modules found in the checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


_HARMLESS = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV", "SYSTEMROOT", "LD_LIBRARY_PATH")


def private_environment() -> dict[str, str]:
    """What the demo's children start from: nothing of the user's settings, whatever they are."""
    kept = {name: value for name, value in os.environ.items() if name in _HARMLESS or name.startswith("LC_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
