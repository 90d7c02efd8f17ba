"""Settings of the Twilio gateway."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from libs.call_leg.fences import OutboundRules
from libs.runtime.settings import Port, ServiceSettings

SCHEMES = {"https": "wss", "http": "ws"}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(ServiceSettings):
    """See docs/twilio.md for how a number is set up."""

    twilio_account_sid: str = Field(pattern=r"^AC[0-9a-fA-F]{32}$", description="The account, `AC…`")
    twilio_auth_token: SecretStr | None = Field(
        None, description="The account's auth token: requests are checked with it, so that nothing starts without it"
    )
    twilio_api_key: str | None = Field(None, description="API key `SK…` for the REST API, in place of the auth token")
    twilio_api_secret: SecretStr | None = Field(None, description="The API key's secret")
    twilio_from: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Our numbers in E.164, separated by commas; the first one is the caller id of outbound calls"
    )
    twilio_allowed_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="What may be called, as +49,+43; unset: the numbers of DEFAULT_COUNTRY, nothing that costs extra",
    )
    twilio_denied_prefixes: Annotated[tuple[str, ...], NoDecode] = Field((), description="What may not be called")
    twilio_attempts_per_hour: int = Field(60, ge=0, description="Outbound calls within any hour")
    twilio_api_base_url: str = Field(
        "https://api.twilio.com", description="The REST API; another region's, or a stand-in for tests"
    )
    twilio_listen_host: str = Field("127.0.0.1", description="Where webhooks and media streams are taken")
    twilio_listen_port: Port = Field(8091, description="Port of the same; 0 picks a free one")
    public_url: str = Field(
        description="Where Twilio reaches this gateway through the reverse proxy or tunnel, as https://calls.example.com"
    )
    twilio_allow_unsigned: bool = Field(
        False, description="Take requests without a signature, on loopback only; for tests"
    )
    twilio_ring_s: float = Field(
        10, ge=0, le=13, description="How long a caller hears ringing while the agent gets ready, then a waiting tone"
    )
    twilio_dial_timeout_s: int = Field(30, ge=5, le=600, description="How long a transfer rings at its target")
    max_calls: int = Field(100, ge=1, description="Calls that this gateway takes at once")
    drain_timeout_s: float = Field(600, ge=0, description="How long SIGTERM lets calls finish")
    default_country: str = Field("DE", pattern=r"^[A-Z]{2}$", description="Country of numbers without a prefix")

    @field_validator("twilio_from", "twilio_allowed_prefixes", "twilio_denied_prefixes", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("public_url")
    @classmethod
    def _reachable(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in SCHEMES or not url.hostname or url.query or url.fragment or url.username:
            raise ValueError(f"{value!r} is not a URL such as https://calls.example.com")
        if url.scheme == "http" and not is_loopback(url.hostname):
            raise ValueError("media streams need TLS: begin it with https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.twilio_auth_token is None and not self.twilio_allow_unsigned:
            raise ValueError("TWILIO_AUTH_TOKEN is not set; without it anybody could place calls here")
        if self.twilio_allow_unsigned and not is_loopback(self.twilio_listen_host):
            raise ValueError("TWILIO_ALLOW_UNSIGNED needs TWILIO_LISTEN_HOST on loopback")
        if (self.twilio_api_key is None) is not (self.twilio_api_secret is None):
            raise ValueError("TWILIO_API_KEY and TWILIO_API_SECRET belong together")
        return self

    @property
    def outbound_rules(self) -> OutboundRules:
        """The fence around outbound calls and the targets of transfers."""
        return OutboundRules(
            self.twilio_allowed_prefixes, self.twilio_denied_prefixes, self.twilio_attempts_per_hour,
            self.default_country,
        )  # fmt: skip

    @property
    def stream_url(self) -> str:
        """`PUBLIC_URL` as media streams name it."""
        scheme, rest = self.public_url.split(":", 1)
        return f"{SCHEMES[scheme]}:{rest}"
