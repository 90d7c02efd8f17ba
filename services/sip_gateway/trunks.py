"""The trunks of this gateway as their operator writes them: data, validation, and which request belongs to which trunk.

A trunk is a provider or PBX that calls us, that we call, or both. They stand in the YAML file that `SIP_TRUNKS_FILE`
names; the one of `SIP_SERVER`, `SIP_USERNAME` … is added under the name `default`. Secrets stand elsewhere: in the
environment (`password: ${SIP_PASSWORD}`) or in a file of their own (`password_file`). Nothing here does I/O but
`read_trunks`.

    trunks:
      - name: provider
        server: sip.example.net
        username: 1234567t0
        password: ${PROVIDER_PASSWORD}
        organisation: default
        caller: "+493012345678"
        outbound: {allowed_prefixes: ["+49"], attempts_per_hour: 100}
      - name: pbx
        sources: [192.168.10.0/24]
        transfer: bridge
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from libs.call_leg.fences import OutboundRules
from libs.contracts.ids import check_token
from libs.sip.digest import Login
from services.sip_gateway.resolve import ResolveError, split_server

Network = IPv4Network | IPv6Network
Transport = Literal["udp", "tcp", "tls"]
Srtp = Literal["off", "optional", "required"]
Codec = Literal["G722", "PCMA", "PCMU"]
DIRECT = "direct"
DEFAULT = "default"
DEFAULT_PORTS = {"udp": 5060, "tcp": 5060, "tls": 5061}
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRETS = ("password", "challenge_password")


class TrunksError(ValueError):
    """The trunks cannot be used; the text names trunk and field, one sentence a line."""


class Outbound(BaseModel):
    """What may be called through a trunk; see `libs.call_leg.fences`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_prefixes: tuple[str, ...] = ()  # without any: numbers of the trunk's own country
    denied_prefixes: tuple[str, ...] = ()
    attempts_per_hour: Annotated[int, Field(ge=0)] = 60
    allow_sip_uris: bool = False
    allow_costly: bool = False

    @field_validator("allowed_prefixes", "denied_prefixes")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in value:
            if not re.fullmatch(r"\+[0-9]{0,15}|[0-9*#]{1,8}", prefix):
                raise ValueError(f"{prefix!r} is no beginning of a number such as +49, and no extension such as 2")
        return value


class TrunkConfig(BaseModel):
    """One trunk. `register` defaults to yes where server, user and password are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    server: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None  # None: by SRV, else 5060, for TLS 5061
    transport: Transport = "udp"
    username: str = ""
    auth_username: str = ""  # where the provider wants another one in the digest
    password: SecretStr | None = None
    from_user: str = ""  # user of From where the provider wants the account's; "" is the caller's number
    from_domain: str = ""  # host of From and of the address of record; "" is the server
    outbound_proxy: str | None = None  # host[:port]; requests go there first
    register_: Annotated[bool | None, Field(alias="register")] = None
    register_expires_s: Annotated[int, Field(ge=30, le=86_400)] = 600
    keepalive_s: Annotated[float, Field(ge=0, le=3600)] = 25.0  # 0: none

    sources: tuple[Network, ...] = ()  # who calls us through this trunk, beside its server
    challenge: bool = False  # calls of `sources` must say a password
    challenge_username: str = ""
    challenge_password: SecretStr | None = None

    organisation: str | None = None  # who may call through it; None: every organisation
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "DE"
    caller: str = ""  # the number that callees see, unless the call names another
    identity: bool = True  # P-Asserted-Identity (RFC 3325)
    outbound: Outbound = Outbound()
    transfer: Literal["refer", "bridge"] = "refer"

    srtp: Srtp = "optional"
    codecs: Annotated[tuple[Codec, ...], Field(min_length=1)] = ("PCMA", "PCMU")
    rtcp_mux: bool = False

    @model_validator(mode="before")
    @classmethod
    def _split_port(cls, fields: Any) -> Any:
        """`server: sip.example.net:5080` is host and port."""
        server = fields.get("server") if isinstance(fields, dict) else None
        if not server or not isinstance(server, str):
            return fields
        try:
            host, port = split_server(server)
        except ResolveError as error:
            raise ValueError(f"server: {error}") from None
        if port is not None and fields.get("port") is not None:
            raise ValueError(f"server: {server!r} has a port, and port stands beside it")
        return fields | {"server": host} | ({"port": port} if port is not None else {})

    @field_validator("name", "organisation")
    @classmethod
    def _token(cls, value: str | None) -> str | None:
        return None if value is None else check_token(value, "name")

    @field_validator("srtp", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value

    @field_validator("codecs", mode="before")
    @classmethod
    def _codecs(cls, value: object) -> object:
        return [item.upper() for item in value] if isinstance(value, list) else value

    @field_validator("sources", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(ip_network(item, strict=False) for item in value) if isinstance(value, list) else value

    @field_validator("server", "from_domain", "outbound_proxy")
    @classmethod
    def _host(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9A-Fa-f:.]+",
                                      value):  # fmt: skip
            raise ValueError(f"{value!r} is not a host name or address")
        return value

    @model_validator(mode="after")
    def _complete(self) -> TrunkConfig:
        if self.register_ and not (self.server and self.username and self.password):
            raise ValueError("register needs server, username and password")
        if self.challenge and not (self.challenge_username and self.challenge_password and self.sources):
            raise ValueError("challenge needs challenge_username, challenge_password and sources")
        if not self.server and not self.sources and self.name != DIRECT:
            raise ValueError("server or sources is needed: nobody could call and nobody be called")
        return self

    @property
    def registers(self) -> bool:
        """Whether we register there."""
        return bool(self.server and self.username and self.password) if self.register_ is None else self.register_

    @property
    def rules(self) -> OutboundRules:
        """The trunk's fence."""
        return OutboundRules(**self.outbound.model_dump(), country=self.country, organisation=self.organisation)

    @property
    def domain(self) -> str:
        """Host of our address of record."""
        return self.from_domain or self.server or ""

    @property
    def login(self) -> Login | None:
        """What answers the trunk's challenges."""
        if self.password is None or not self.username:
            return None
        return Login(self.auth_username or self.username, self.password.get_secret_value())


class TrunkTable:
    """All trunks, and which one a request belongs to. `direct` stands for peers of no trunk that are answered."""

    def __init__(self, trunks: Iterable[TrunkConfig], direct: TrunkConfig) -> None:
        """Raises TrunksError for a name or a network that two trunks have."""
        self.direct = direct
        self._by_name: dict[str, TrunkConfig] = {}
        for trunk in trunks:
            if trunk.name in self._by_name or trunk.name == DIRECT:
                raise TrunksError(f"trunk {trunk.name!r}: name: another trunk has it")
            self._by_name[trunk.name] = trunk
        registering = [t for t in self if t.registers]
        names = [t.username for t in registering]
        self.contact_users = {
            t.name: t.username if names.count(t.username) == 1 else f"{t.username}-{t.name}" for t in registering
        }
        """User of our Contact by trunk: each has its own, so that the request URI names the trunk that rings."""
        self._by_user = {user: self._by_name[name] for name, user in self.contact_users.items()}
        self._by_login = {t.challenge_username: t for t in self if t.challenge}
        self._networks = sorted(
            ((network, t) for t in self for network in t.sources), key=lambda pair: -pair[0].prefixlen
        )
        self._check_networks()
        self._servers: dict[str, tuple[str, ...]] = {}

    def _check_networks(self) -> None:
        seen: dict[Network, str] = {}
        for network, trunk in self._networks:
            if (other := seen.setdefault(network, trunk.name)) != trunk.name:
                raise TrunksError(f"trunk {trunk.name!r}: sources: {network} belongs to trunk {other!r}")

    def __iter__(self) -> Iterator[TrunkConfig]:
        return iter(self._by_name.values())

    @property
    def codecs(self) -> tuple[str, ...]:
        """Every codec that some trunk speaks."""
        return tuple(dict.fromkeys(codec for trunk in (self.direct, *self) for codec in trunk.codecs))

    def named(self, name: str) -> TrunkConfig | None:
        """The trunk of this name."""
        return self._by_name.get(name)

    @property
    def sources(self) -> tuple[Network, ...]:
        """Networks that trunks call from."""
        return tuple(network for network, _ in self._networks)

    def resolved(self, name: str, hosts: Iterable[str]) -> None:
        """The addresses that a trunk's server has now."""
        self._servers[name] = tuple(hosts)

    def of_source(self, host: str) -> TrunkConfig | None:
        """The trunk whose network holds this address, the smallest first; None where only a server may have it."""
        address = ip_address(host)
        return next(
            (t for network, t in self._networks if network.version == address.version and address in network), None
        )

    def of_request(self, source: str, user: str, login: str = "") -> TrunkConfig:
        """The trunk that an INVITE came through: who proved to call, the Contact that it rings, where it comes from."""
        if login and (found := self._by_login.get(login)):
            return found
        by_user = self._by_user.get(user)
        if by_user is not None:
            return by_user
        servers = [name for name, hosts in self._servers.items() if source in hosts]
        if len(servers) == 1:
            return self._by_name[servers[0]]
        return self.of_source(source) or self.direct

    def is_contact(self, user: str) -> bool:
        """Whether this is the user of a Contact of ours: the number that was dialled stands in To then."""
        return user in self._by_user


# -- reading ---------------------------------------------------------------------------------------------------


def read_trunks(path: Path, environment: Mapping[str, str]) -> tuple[TrunkConfig, ...]:
    """The trunks of a YAML file.

    Raises:
        TrunksError: it cannot be read, or every mistake in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.load(text, yaml.BaseLoader)  # scalars stay text: +4930… is no number, `off` no boolean
    except OSError as error:
        raise TrunksError(f"SIP_TRUNKS_FILE: {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TrunksError(f"SIP_TRUNKS_FILE: {path} is not UTF-8 text") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise TrunksError(f"SIP_TRUNKS_FILE: {path}{_not_yaml(error)}") from None
    listed = document.get("trunks") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise TrunksError(f"{path}: a list under the name 'trunks' is expected")
    trunks, problems = [], []
    for number, entry in enumerate(listed, 1):
        try:
            trunks.append(_trunk(entry, number, path.parent, environment))
        except TrunksError as error:
            problems.append(str(error))
    if problems:
        raise TrunksError("\n".join(problems))
    return tuple(trunks)


def _not_yaml(error: Exception) -> str:
    """Where the parser stopped, and why, without the lines that it quotes: a secret may stand in them."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{f':{mark.line + 1}' if mark else ''} is not YAML: {problem or 'nested too deep'}"


def _trunk(entry: object, number: int, folder: Path, environment: Mapping[str, str]) -> TrunkConfig:
    if not isinstance(entry, dict):
        raise TrunksError(f"trunk {number}: names and values are expected")
    name = entry.get("name") or number
    fields = {key: value for key, value in entry.items() if value != ""}
    for secret in _SECRETS:
        file = fields.pop(f"{secret}_file", None)
        if file is not None and secret in fields:
            raise TrunksError(f"trunk {name!r}: {secret}: it stands in {secret}_file, too")
        if file is not None:
            try:
                fields[secret] = (folder / file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise TrunksError(f"trunk {name!r}: {secret}_file: {error}") from None
        elif secret in fields and not _REFERENCE.fullmatch(str(fields[secret])):
            raise TrunksError(f"trunk {name!r}: {secret}: not here in the clear; write ${{NAME}} or use {secret}_file")
    filled = {key: _filled(value, f"trunk {name!r}: {key}", environment) for key, value in fields.items()}
    return checked_trunk(filled, str(name))


def _filled(value: Any, where: str, environment: Mapping[str, str]) -> Any:
    """`${NAME}` out of the environment, in strings at any depth."""
    if isinstance(value, list):
        return [_filled(item, where, environment) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, f"{where}.{key}", environment) for key, item in value.items()}

    def look_up(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise TrunksError(f"{where}: {match[1]} is not set in the environment")
        return found

    return _REFERENCE.sub(look_up, value) if isinstance(value, str) else value


def checked_trunk(fields: Mapping[str, Any], name: str) -> TrunkConfig:
    """A trunk out of its fields.

    Raises:
        TrunksError: one line for each field that is wrong.
    """
    try:
        return TrunkConfig.model_validate(dict(fields))
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            field = ".".join(str(part) for part in problem["loc"])
            text = "there is no such field" if problem["type"] == "extra_forbidden" else problem["msg"]
            text = text.removeprefix("Value error, ")
            lines.append(f"trunk {name!r}: {field + ': ' if field else ''}{text}")
        raise TrunksError("\n".join(lines)) from None
