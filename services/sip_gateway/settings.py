"""Settings of the SIP gateway."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from libs.runtime.settings import Port, ServiceSettings

Network = IPv4Network | IPv6Network
# Loopback, private and link-local ranges: RFC 1918, RFC 4193, RFC 3927, RFC 6598.
LOCAL_NETWORKS = (
    "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10,::1/128,fc00::/7,fe80::/10"
)


class Settings(ServiceSettings):
    """See `.env.example` for the names that users know."""

    sip_listen_host: str = Field("0.0.0.0", description="Address that SIP listens on; 0.0.0.0 is every one")
    sip_listen_port: Port = Field(5060, description="UDP port that SIP listens on; 0 picks a free one")
    sip_public_host: str | None = Field(None, description="Address that peers reach us at, when NAT hides it")
    sip_allowed_sources: Annotated[tuple[Network, ...], NoDecode] = Field(
        tuple(ip_network(n) for n in LOCAL_NETWORKS.split(",")),
        description="Networks that get an answer at all, separated by commas",
    )
    rtp_ports: Annotated[tuple[int, int] | None, NoDecode] = Field(
        None, description="Range of RTP ports, as 10000-20000; unset: the system picks"
    )
    rtp_timeout_s: float = Field(30, gt=1, description="A call without any RTP from the caller ends after this")
    max_calls: int = Field(150, ge=1, description="Calls that this gateway takes at once")
    drain_timeout_s: float = Field(600, ge=0, description="How long SIGTERM lets calls finish")
    default_country: str = Field("DE", pattern=r"^[A-Z]{2}$", description="Country of numbers without a prefix")
    sip_server: str | None = Field(
        None,
        validation_alias=AliasChoices("SIP_SERVER", "SIP_DOMAIN"),
        description="The provider's registrar, a name or address; with user and password the gateway registers there",
    )
    sip_username: str | None = Field(None, description="The trunk's user name")
    sip_password: SecretStr | None = Field(None, description="The trunk's password")
    sip_port: Port = Field(5060, description="The provider's port; ours is SIP_LISTEN_PORT")

    @field_validator("sip_allowed_sources", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(part.strip(), strict=False) for part in value.split(",") if part.strip())
        return value

    @field_validator("rtp_ports", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        low, dash, high = value.partition("-")
        if value == "0":
            return None
        if not dash or not low.strip().isdigit() or not high.strip().isdigit():
            raise ValueError(f"{value!r} is not a port range such as 10000-20000")
        first, last = int(low), int(high)
        if not 1024 <= first < last <= 65535:
            raise ValueError(f"{value!r} is not a range within 1024-65535")
        return first, last
