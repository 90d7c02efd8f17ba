"""Settings of the browser gateway."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from libs.runtime.settings import Port, ServiceSettings


class Settings(ServiceSettings):
    """See `.env.example` for the names that users know."""

    browser_listen_host: str = Field("127.0.0.1", description="Address that the page and its WebSockets listen on")
    browser_listen_port: Port = Field(8090, description="TCP port of the page and its WebSockets; 0 picks a free one")
    browser_public_url: str | None = Field(
        None, description="Where browsers reach the gateway behind a reverse proxy, as https://calls.example.org"
    )
    browser_allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further origins whose pages may connect, separated by commas; its own page always may"
    )
    browser_token_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Key that signs tokens, at least 32 characters; unset: new at each start, known to nobody else",
    )
    browser_token_ttl_s: float = Field(60, gt=0, le=3600, description="How long a token may wait for its one use")
    browser_max_calls: int = Field(50, ge=1, description="Calls and take-overs that this gateway serves at once")
    browser_drain_timeout_s: float = Field(60, ge=0, description="How long SIGTERM lets browser calls finish")

    @field_validator("browser_allowed_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(_origin(part) for part in value) if isinstance(value, list | tuple) else value

    @field_validator("browser_public_url")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        return value if value is None else _origin(value)


def _origin(text: str) -> str:
    """Scheme, host and port in lower case, as browsers send it (RFC 6454 §6.2)."""
    parts = urlsplit(text.strip().rstrip("/").lower())
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
        raise ValueError(f"{text!r} is not an origin such as https://calls.example.org")
    return f"{parts.scheme}://{parts.netloc}"
