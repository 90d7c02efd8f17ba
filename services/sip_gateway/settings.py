"""Settings of the SIP gateway."""

from __future__ import annotations

import os
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from libs.runtime.settings import Port, ServiceSettings
from services.sip_gateway.stream import TlsFiles
from services.sip_gateway.trunks import (
    DEFAULT,
    DIRECT,
    Codec,
    Network,
    Srtp,
    Transport,
    TrunkConfig,
    TrunkTable,
    checked_trunk,
    read_trunks,
)

__all__ = ["Network", "Settings"]

# Loopback, private and link-local ranges: RFC 1918, RFC 4193, RFC 3927, RFC 6598.
LOCAL_NETWORKS = (
    "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10,::1/128,fc00::/7,fe80::/10"
)


class Settings(ServiceSettings):
    """See `.env.example` for the names that users know."""

    sip_stack: Literal["callbus", "pyvoip"] = Field(
        "callbus", description="pyvoip: signalling by pyVoIP, a package of its own (GPLv3); see docs/pyvoip.md"
    )
    pyvoip_answer_delay_s: float = Field(0, ge=0, le=30, description="With SIP_STACK=pyvoip: rings at least so long")
    sip_listen_host: str = Field("0.0.0.0", description="Address that SIP listens on; 0.0.0.0 is every one")
    sip_listen_port: Port = Field(5060, description="UDP port that SIP listens on; 0 picks a free one")
    sip_tcp_port: Port | None = Field(None, description="TCP port that SIP listens on; unset: none")
    sip_tls_port: Port | None = Field(None, description="TLS port that SIP listens on, usually 5061; unset: none")
    sip_tls_cert: Path | None = Field(None, description="Our certificate with its chain (PEM), for SIP_TLS_PORT")
    sip_tls_key: Path | None = Field(None, description="The certificate's key (PEM)")
    sip_tls_ca: Path | None = Field(None, description="Whom we trust as TLS servers (PEM); unset: the system's list")
    sip_tls_verify: bool = Field(True, description="Off: talk to TLS servers whatever their certificate says")
    sip_public_host: str | None = Field(None, description="Address that peers reach us at, when NAT hides it")
    sip_allowed_sources: Annotated[tuple[Network, ...], NoDecode] = Field(
        tuple(ip_network(n) for n in LOCAL_NETWORKS.split(",")),
        description="Networks that get an answer at all, separated by commas",
    )
    sip_invites_per_second: float = Field(
        50, gt=0, description="New calls that one source may try in a second, twice as many at once; more get 503"
    )
    sip_srtp: Srtp = Field("optional", description="SRTP of calls: off, optional (when offered) or required")
    sip_codecs: Annotated[tuple[Codec, ...], NoDecode] = Field(
        ("PCMA", "PCMU"), description="Codecs in our order of preference: G722 (wideband), PCMA, PCMU"
    )
    sip_trace: bool = Field(True, description="Keep each call's SIP messages in its event stream (`callbus trace`)")
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
    sip_port: Port | None = Field(
        None, description="The provider's port; unset: what its SRV records say, else 5060, with TLS 5061"
    )
    sip_transport: Transport = Field("udp", description="How the provider is reached: udp, tcp or tls")
    sip_caller: str = Field("", description="The number that callees see; unset: the trunk's user name")
    sip_outbound_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Beginnings of numbers that may be called, as +49,+43; unset: those of DEFAULT_COUNTRY"
    )
    sip_attempts_per_hour: int = Field(60, ge=0, description="Calls that may be placed in an hour; 0: none")
    sip_trunks_file: Path | None = Field(
        None, description="YAML file with further trunks; services/sip_gateway/trunks.example.yaml shows them"
    )

    @field_validator("sip_allowed_sources", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ip_network(part.strip(), strict=False) for part in value.split(",") if part.strip())
        return value

    @field_validator("sip_codecs", "sip_outbound_prefixes", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(",") if part.strip()]
            return tuple(part if part.startswith("+") else part.upper() for part in parts)
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

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Settings:
        if self.sip_tls_port is not None and (self.sip_tls_cert is None or self.sip_tls_key is None):
            raise ValueError("SIP_TLS_PORT needs SIP_TLS_CERT and SIP_TLS_KEY")
        return self

    @model_validator(mode="after")
    def _pyvoip_has_its_account(self) -> Settings:
        if self.sip_stack == "pyvoip" and not (self.sip_server and self.sip_username and self.sip_password):
            raise ValueError("SIP_STACK=pyvoip needs SIP_SERVER, SIP_USERNAME and SIP_PASSWORD: it always registers")
        if self.sip_stack == "pyvoip" and find_spec("rfcvoip") is None:
            raise ValueError(
                "SIP_STACK=pyvoip needs the package rfcvoip (GPLv3), which no set-up of ours brings: "
                "install requirements/pyvoip.lock"
            )
        return self

    @model_validator(mode="after")
    def _trunks_are_usable(self) -> Settings:
        self.trunks()  # what is wrong with them is told at the start, as with any setting
        return self

    def tls_files(self) -> TlsFiles:
        """Certificates of ours and of those we trust."""
        return TlsFiles(self.sip_tls_cert, self.sip_tls_key, self.sip_tls_ca, self.sip_tls_verify)

    def trunks(self) -> TrunkTable:
        """All trunks: the one of `SIP_SERVER`, and those of `SIP_TRUNKS_FILE`.

        Raises:
            TrunksError: naming trunk and field.
        """
        outbound = {
            "allowed_prefixes": self.sip_outbound_prefixes, "attempts_per_hour": self.sip_attempts_per_hour
        }  # fmt: skip
        common = {
            "country": self.default_country, "srtp": self.sip_srtp, "codecs": self.sip_codecs, "outbound": outbound,
        }  # fmt: skip
        found: list[TrunkConfig] = []
        if self.sip_server:
            own = common | {
                "name": DEFAULT, "server": self.sip_server, "port": self.sip_port, "transport": self.sip_transport,
                "username": self.sip_username or "", "password": self.sip_password,
                "caller": self.sip_caller or self.sip_username or "",
            }  # fmt: skip
            found.append(checked_trunk(own, DEFAULT))
        if self.sip_trunks_file is not None:
            # the .env file counts here as it does for every setting; what is set in the environment wins
            written = {key: value for key, value in dotenv_values(".env").items() if value}
            found += read_trunks(self.sip_trunks_file, written | os.environ)
        # peers of no trunk: SIP_ALLOWED_SOURCES lets them in
        return TrunkTable(found, checked_trunk(common | {"name": DIRECT}, DIRECT))
