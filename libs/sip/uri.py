"""SIP, SIPS and tel URIs, and the name-addr form of From, To, Contact and Route.

Tolerant where operators are: host names may end in a digit or hold an underscore (both are common in container
networks), URI headers after `?` are kept as text. Sources: RFC 3261 §19.1 and §25.1, RFC 3966.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote

from libs.sip.errors import SipParseError

Transport = Literal["udp", "tcp", "tls"]
DEFAULT_PORTS: dict[Transport, int] = {"udp": 5060, "tcp": 5060, "tls": 5061}  # RFC 3261 §19.1.2
Parameters = tuple[tuple[str, str | None], ...]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)\Z", re.DOTALL)
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?\Z")
_TEL_NUMBER = re.compile(r"[+0-9A-Fa-f*#().-]+\Z")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f<>\"]")
_USER_SAFE = "-_.!~*'()&=+$,;?/"


def split_quoted(text: str, separator: str) -> list[str]:
    """Split at `separator` outside quoted strings and angle brackets (RFC 3261 §7.3.1)."""
    if '"' not in text and "<" not in text:
        return [part.strip() for part in text.split(separator)]
    parts: list[str] = []
    start = 0
    quoted = angle = escaped = False
    for position, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = char == "\\"
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == separator and not angle:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return parts


def parse_parameters(text: str) -> Parameters:
    """Read `;a=1;b` into pairs; names become lower case, quotes around values are removed."""
    pairs: list[tuple[str, str | None]] = []
    for part in split_quoted(text, ";"):
        if not part:
            continue
        name, equals, value = part.partition("=")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        pairs.append((name.strip().lower(), value if equals else None))
    return tuple(pairs)


def find_parameter(parameters: Parameters, name: str) -> str | None:
    """Value of the first parameter called `name`; "" when it has none; None when it is absent."""
    for key, value in parameters:
        if key == name:
            return value or ""
    return None


def parse_host_port(text: str) -> tuple[str, int | None]:
    """Split `host[:port]`; IPv6 references keep their brackets. Raises SipParseError."""
    match = _HOST_PORT.match(text)
    if match is None:
        raise SipParseError(f"{text[:80]!r} is not a host with an optional port", "bad_uri")
    port = int(match[2]) if match[2] else None
    if port is not None and port > 65535:
        raise SipParseError(f"port {port} is above 65535", "bad_uri")
    return match[1], port


@dataclass(frozen=True, slots=True)
class SipUri:
    """One URI. `user` is unescaped; tel has its number in `user` and no host; `str()` is the text as received."""

    scheme: str
    user: str
    host: str
    port: int | None = None
    parameters: Parameters = ()
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """Read one URI without angle brackets. Raises SipParseError."""
        match = _SCHEME.match(text)
        if match is None or _FORBIDDEN.search(text):
            raise SipParseError(f"{text[:80]!r} is not a URI", "bad_uri")
        scheme, rest = match[1].lower(), match[2]
        if scheme == "tel":
            number, _, parameters = rest.partition(";")
            if not _TEL_NUMBER.match(number):
                raise SipParseError(f"{text[:80]!r} is not a telephone number (RFC 3966)", "bad_uri")
            return cls(scheme, number, "", None, parse_parameters(parameters), text)
        if scheme not in ("sip", "sips"):
            return cls(scheme, rest, "", None, (), text)
        user, at, rest = rest.partition("@")
        if not at:
            user, rest = "", user
        elif not user:
            raise SipParseError(f"{text[:80]!r} has an empty user part", "bad_uri")
        rest = rest.partition("?")[0]
        host_port, _, parameters = rest.partition(";")
        host, port = parse_host_port(host_port)
        # a password in the user part is deprecated (RFC 3261 §19.1.1) and not part of the identity
        user = unquote(user.partition(":")[0])
        return cls(scheme, user, host, port, parse_parameters(parameters), text)

    @classmethod
    def build(cls, user: str, host: str, port: int | None = None, transport: Transport = "udp") -> SipUri:
        """A sip URI of ours, escaped where RFC 3261 §25.1 asks for it; UDP goes without saying (§19.1.1).

        TLS is `sip:` with transport=tls: deprecated on paper, and what providers and phones write and read, while
        `sips:` demands TLS on every hop to the other side (RFC 5630), which nobody here can promise.
        """
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        text = "sip:" + (quote(user, safe=_USER_SAFE) + "@" if user else "") + host
        text = text if port is None else f"{text}:{port}"
        if transport == "udp":
            return cls("sip", user, host, port, (), text)
        return cls("sip", user, host, port, (("transport", transport),), f"{text};transport={transport}")

    @property
    def is_loose_router(self) -> bool:
        """True when the URI carries `lr` (RFC 3261 §19.1.1)."""
        return find_parameter(self.parameters, "lr") is not None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class NameAddr:
    """`"display" <uri>;parameters` as in From, To, Contact, Route; also the bare addr-spec form (RFC 3261 §20)."""

    uri: SipUri
    display_name: str
    parameters: Parameters
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Read one value. Raises SipParseError."""
        text = text.strip()
        display = ""
        rest = text
        if text.startswith('"'):
            end = _closing_quote(text)
            display = re.sub(r"\\(.)", r"\1", text[1:end])
            rest = text[end + 1 :].lstrip()
            if not rest.startswith("<"):
                raise SipParseError("a quoted display name must be followed by <uri>", "bad_address")
        opening = rest.find("<")
        if opening < 0:
            # without brackets all parameters belong to the header, not to the URI (RFC 3261 §20)
            uri, _, parameters = rest.partition(";")
            return cls(SipUri.parse(uri.strip()), "", parse_parameters(parameters), text)
        closing = rest.find(">", opening)
        if closing < 0:
            raise SipParseError("an address opens < and never closes it", "bad_address")
        tail = rest[closing + 1 :].strip()
        if tail and not tail.startswith(";"):
            raise SipParseError("an address is followed by something other than parameters", "bad_address")
        display = display or rest[:opening].strip()
        uri = rest[opening + 1 : closing].strip()
        return cls(SipUri.parse(uri), display, parse_parameters(tail), text)

    @property
    def tag(self) -> str:
        """The tag parameter, "" when there is none (RFC 3261 §19.3)."""
        return find_parameter(self.parameters, "tag") or ""


def _closing_quote(text: str) -> int:
    escaped = False
    for position in range(1, len(text)):
        if escaped:
            escaped = False
        elif text[position] == "\\":
            escaped = True
        elif text[position] == '"':
            return position
    raise SipParseError("a display name opens a quote and never closes it", "bad_address")


def format_name_addr(uri: str, display_name: str = "", tag: str = "") -> str:
    """Serialise `"display" <uri>;tag=...`."""
    escaped = display_name.replace("\\", "\\\\").replace('"', '\\"')
    shown = f'"{escaped}" ' if display_name else ""
    return f"{shown}<{uri}>" + (f";tag={tag}" if tag else "")
