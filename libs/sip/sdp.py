"""Session descriptions and offer/answer for one audio stream (RFC 8866, 3264, 3551, 4568, 4733, 5761).

`negotiate` answers an offer, `make_offer` and `accept_answer` are the other direction. An answer names exactly one
codec, the first of the offerer's list that we speak, so neither side can switch later without a new offer; payload
types are the offerer's. Media lines that we do not take are refused with port 0 and stay in place (RFC 3264 §6).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from libs.sip.errors import NoCommonCodec, SdpError
from libs.sip.sdes import MASTER_BYTES, SUITES, CryptoKey, SrtpKeys, SrtpPolicy, usable_keys

Attribute = tuple[str, str | None]

# RFC 3551 table 4: payload types that need no rtpmap
STATIC_CODECS = {0: "PCMU", 8: "PCMA", 9: "G722", 18: "G729"}
PAYLOAD_TYPES = {"PCMU": 0, "PCMA": 8, "G722": 9}  # what we speak; all have an RTP clock of 8000 Hz
TELEPHONE_EVENT_PT = 101
_PLAIN = ("RTP/AVP", "RTP/AVPF")
_SECURE = ("RTP/SAVP", "RTP/SAVPF")
_ADDRESS = re.compile(r"[0-9A-Za-z.:_-]{1,255}\Z")
_NUMBER = re.compile(r"[0-9]{1,20}\Z")


class Direction(StrEnum):
    """Media direction as seen by the side that says it (RFC 8866 §6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def mirrored(self) -> Direction:
        """The same stream as the other side says it (RFC 3264 §6.1)."""
        return _MIRROR.get(self, self)

    @property
    def sends(self) -> bool:
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    def restricted_to(self, other: Direction) -> Direction:
        """What both allow."""
        sends, receives = self.sends and other.sends, self.receives and other.receives
        if sends:
            return Direction.SENDRECV if receives else Direction.SENDONLY
        return Direction.RECVONLY if receives else Direction.INACTIVE


_MIRROR = {Direction.SENDONLY: Direction.RECVONLY, Direction.RECVONLY: Direction.SENDONLY}


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """One m= line with what belongs to it. `host` is its own c= line, "" when it has none."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    host: str = ""
    attributes: tuple[Attribute, ...] = field(default=(), repr=False)  # they may hold keys

    @property
    def is_secure(self) -> bool:
        """SRTP by the profile's name (RFC 4568); DTLS-SRTP is another profile."""
        return self.protocol in _SECURE

    def attribute(self, name: str) -> str | None:
        """Value of an attribute, "" for one without value, None when absent."""
        for key, value in self.attributes:
            if key == name:
                return value or ""
        return None

    def codecs(self) -> list[tuple[int, str, int]]:
        """(payload type, encoding name in capitals, clock rate in Hz) in order of preference."""
        mapped: dict[int, tuple[str, int]] = {}
        for name, value in self.attributes:
            if name == "rtpmap" and value and (entry := _parse_rtpmap(value)):
                mapped.setdefault(entry[0], (entry[1], entry[2]))
        known = []
        for text in self.formats:
            if not _NUMBER.match(text) or int(text) > 127:
                continue
            payload_type = int(text)
            name, clock_hz = mapped.get(payload_type, (STATIC_CODECS.get(payload_type, ""), 8000))
            if name:
                known.append((payload_type, name, clock_hz))
        return known

    @property
    def direction(self) -> Direction | None:
        for name, _ in self.attributes:
            if name in Direction._value2member_map_:
                return Direction(name)
        return None


def _parse_rtpmap(value: str) -> tuple[int, str, int] | None:
    """`101 telephone-event/8000` -> (101, "TELEPHONE-EVENT", 8000); None for stereo and for what cannot be read."""
    payload_type, _, encoding = value.partition(" ")
    name, _, rest = encoding.strip().partition("/")
    clock, _, channels = rest.partition("/")
    if not _NUMBER.match(payload_type) or not _NUMBER.match(clock) or not name:
        return None
    if channels not in ("", "1"):
        return int(payload_type), f"{name.upper()}/{channels}", int(clock)
    return int(payload_type), name.upper(), int(clock)


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """One session description. `host` is the session-level c= line, "" when it has none."""

    username: str
    session_id: int
    session_version: int
    origin_host: str
    host: str
    media: tuple[MediaDescription, ...]
    attributes: tuple[Attribute, ...] = ()
    session_name: str = "-"

    @classmethod
    def parse(cls, text: str) -> SessionDescription:
        """Read SDP text with CRLF or LF. Unknown lines are skipped. Raises SdpError."""
        return _Parser(text).session()

    def serialize(self) -> str:
        """SDP text with CRLF line ends."""
        origin = f"{self.username} {self.session_id} {self.session_version} IN {_address(self.origin_host)}"
        lines = ["v=0", f"o={origin}", f"s={self.session_name}"]
        if self.host:
            lines.append(f"c=IN {_address(self.host)}")
        lines.append("t=0 0")
        lines += [_attribute_line(attribute) for attribute in self.attributes]
        for media in self.media:
            lines.append(f"m={media.kind} {media.port} {media.protocol} {' '.join(media.formats)}")
            if media.host:
                lines.append(f"c=IN {_address(media.host)}")
            lines += [_attribute_line(attribute) for attribute in media.attributes]
        return "\r\n".join(lines) + "\r\n"

    def media_host(self, media: MediaDescription) -> str:
        """Address for one media line: its own, else the session's (RFC 8866 §5.7)."""
        return media.host or self.host

    def direction(self, media: MediaDescription) -> Direction:
        """Direction of one media line; c=0.0.0.0 is the old way to say hold (RFC 3264 §8.4)."""
        said = media.direction
        if said is None:
            names = [name for name, _ in self.attributes if name in Direction._value2member_map_]
            said = Direction(names[0]) if names else Direction.SENDRECV
        return said.restricted_to(Direction.SENDONLY) if self.media_host(media) == "0.0.0.0" else said


def _address(host: str) -> str:
    return f"IP6 {host}" if ":" in host else f"IP4 {host}"


def _attribute_line(attribute: Attribute) -> str:
    name, value = attribute
    return f"a={name}" if value is None else f"a={name}:{value}"


class _Parser:
    """Line by line; session level until the first m= line."""

    def __init__(self, text: str) -> None:
        self._lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
        self._origin: list[str] = []
        self._name = "-"
        self._host = ""
        self._attributes: list[Attribute] = []
        self._media: list[MediaDescription] = []

    def session(self) -> SessionDescription:
        if not self._lines or self._lines[0].strip() != "v=0":
            raise SdpError("a session description starts with v=0")
        for line in self._lines[1:]:
            kind, equals, value = line.partition("=")
            if not equals or len(kind) != 1:
                raise SdpError(f"{line[:60]!r} is not an SDP line")
            self._line(kind, value.strip())
        if not self._origin:
            raise SdpError("the o= line is missing")
        username, session_id, version, *_, host = self._origin
        return SessionDescription(
            username, int(session_id), int(version), host, self._host,
            tuple(self._media), tuple(self._attributes), self._name,
        )  # fmt: skip

    def _line(self, kind: str, value: str) -> None:
        if kind == "o":
            words = value.split()
            if len(words) != 6 or not _NUMBER.match(words[1]) or not _NUMBER.match(words[2]):
                raise SdpError(f"o={value[:60]!r} needs user, two numbers, IN, address type and address")
            self._origin = words
        elif kind == "s":
            self._name = value or "-"
        elif kind == "c":
            self._connection(value)
        elif kind == "a":
            self._attribute(value)
        elif kind == "m":
            self._media.append(_parse_media(value))

    def _connection(self, value: str) -> None:
        words = value.split()
        host = words[2].partition("/")[0] if len(words) == 3 else ""
        if not _ADDRESS.match(host) or words[0] != "IN":
            raise SdpError(f"c={value[:60]!r} needs IN, address type and address")
        if self._media:
            self._media[-1] = replace(self._media[-1], host=host)
        else:
            self._host = host

    def _attribute(self, value: str) -> None:
        name, colon, rest = value.partition(":")
        attribute = (name.lower(), rest.strip() if colon else None)
        if self._media:
            last = self._media[-1]
            self._media[-1] = replace(last, attributes=(*last.attributes, attribute))
        else:
            self._attributes.append(attribute)


def _parse_media(value: str) -> MediaDescription:
    words = value.split()
    if len(words) < 4:
        raise SdpError(f"m={value[:60]!r} needs kind, port, protocol and formats")
    port = words[1].partition("/")[0]
    if not _NUMBER.match(port) or int(port) > 65535:
        raise SdpError(f"m={value[:60]!r} has no port from 0 to 65535")
    return MediaDescription(words[0].lower(), int(port), words[2].upper(), tuple(words[3:]))


@dataclass(frozen=True, slots=True)
class LocalMedia:
    """What we bring to a negotiation: where we receive RTP and which codecs we speak, the preferred first.

    `srtp`: "off" takes no encrypted stream and offers none; "optional" answers in kind and offers none; "required"
    takes and offers nothing else. Unless off, `srtp_key` is our key and salt, 30 random bytes for this call alone.
    `rtcp_mux` offers RTP and RTCP on one port; where the peer offers that, it is always accepted.
    """

    host: str
    port: int
    codecs: tuple[str, ...] = ("PCMU", "PCMA")
    session_id: int = 1
    session_version: int = 1
    direction: Direction = Direction.SENDRECV
    ptime_ms: int = 20
    telephone_event: bool = True
    srtp: SrtpPolicy = "off"
    srtp_key: bytes = field(default=b"", repr=False)
    rtcp_mux: bool = False

    def __post_init__(self) -> None:
        if self.srtp != "off" and len(self.srtp_key) != MASTER_BYTES:
            raise ValueError(f"SRTP needs {MASTER_BYTES} bytes of key and salt")


@dataclass(frozen=True, slots=True)
class Negotiated:
    """One agreed audio stream. `direction` is ours; `answer` is the description that settled it.

    `ptime_ms` is what the remote side would like to receive. Without `telephone_event_pt` there are no RFC 4733 digits.
    `remote_rtcp` is where the peer receives RTCP. `srtp` is None for a stream in the clear.
    """

    answer: SessionDescription
    codec: str
    payload_type: int
    telephone_event_pt: int | None
    remote_host: str
    remote_port: int
    direction: Direction
    ptime_ms: int
    remote_rtcp: tuple[str, int] = ("", 0)
    rtcp_mux: bool = False
    srtp: SrtpKeys | None = None


def has_common_codec(offer: SessionDescription, codecs: Sequence[str]) -> bool:
    """True when `negotiate` would find a stream for these codecs, if it may be as secure as it is offered."""
    return any(_choose(media, codecs) for media in offer.media)


def negotiate(offer: SessionDescription, local: LocalMedia) -> Negotiated:
    """Answer an offer (RFC 3264 §6): the first usable audio line is taken, in the offerer's order of codecs.

    Raises NoCommonCodec, and SdpError when the chosen line has no address or a name in place of one.
    """
    index, chosen = next(
        (
            (number, found)
            for number, media in enumerate(offer.media)
            if _may_take(media, local) and (found := _choose(media, local.codecs))
        ),
        (-1, None),
    )
    if chosen is None:
        raise NoCommonCodec(_why_refused(offer, local))
    media = offer.media[index]
    payload_type, codec = chosen
    keys = _answer_keys(media, local)
    event_pt = _telephone_event(media) if local.telephone_event else None
    direction = offer.direction(media).mirrored.restricted_to(local.direction)
    ours = _audio_line(local, [(codec, payload_type)], event_pt, direction)
    mux = media.attribute("rtcp-mux") is not None  # RFC 5761 §5.1.1: accepted by repeating it
    extra: list[Attribute] = [("rtcp-mux", None)] if mux else []
    if keys is not None:
        extra.append(keys.ours.attribute())
    ours = replace(ours, protocol=media.protocol, attributes=(*ours.attributes, *extra))
    lines = tuple(ours if number == index else _refused(line) for number, line in enumerate(offer.media))
    answer = replace(_session(local, ()), media=lines)
    agreed = _settle(offer, media, answer, (codec, payload_type, event_pt), direction)
    return replace(agreed, rtcp_mux=mux, srtp=keys)


def _may_take(media: MediaDescription, local: LocalMedia) -> bool:
    if media.is_secure:
        return local.srtp != "off" and bool(usable_keys(media.attributes))
    return local.srtp != "required"


def _why_refused(offer: SessionDescription, local: LocalMedia) -> str:
    if any(_choose(media, local.codecs) for media in offer.media):
        offered = ", ".join(sorted({media.protocol for media in offer.media}))
        return f"offered {offered[:80]} without a key that we can use; SRTP is {local.srtp} here"
    names = sorted({name for media in offer.media for _, name, _ in media.codecs()})
    return f"offered {', '.join(names) or 'nothing'}, we speak {', '.join(local.codecs)}"


def _answer_keys(media: MediaDescription, local: LocalMedia) -> SrtpKeys | None:
    """RFC 4568 §5.1.2: the first key that we can serve is taken, ours goes under its suite and tag."""
    if not media.is_secure:
        return None
    theirs = usable_keys(media.attributes)[0]
    return SrtpKeys(CryptoKey(theirs.suite, local.srtp_key, theirs.tag), theirs)


def make_offer(local: LocalMedia) -> SessionDescription:
    """An offer of one audio line with our codecs and, if wanted, telephone-event (RFC 3264 §5), SRTP if required."""
    formats = [(codec, PAYLOAD_TYPES[codec]) for codec in local.codecs]
    event_pt = TELEPHONE_EVENT_PT if local.telephone_event else None
    line = _audio_line(local, formats, event_pt, local.direction)
    extra: list[Attribute] = [("rtcp-mux", None)] if local.rtcp_mux else []
    if local.srtp == "required":
        extra += [CryptoKey(suite, local.srtp_key, tag).attribute() for tag, suite in enumerate(SUITES, 1)]
        line = replace(line, protocol="RTP/SAVP")
    return _session(local, (replace(line, attributes=(*line.attributes, *extra)),))


def accept_answer(offer: SessionDescription, answer: SessionDescription) -> Negotiated:
    """Read the answer to our offer.

    Raises NoCommonCodec when it refused our stream, names no codec of ours, or no key for an encrypted stream;
    SdpError as `negotiate` does.
    """
    index, ours = next(((i, m) for i, m in enumerate(offer.media) if m.kind == "audio" and m.port), (-1, None))
    if ours is None or index >= len(answer.media) or not answer.media[index].port:
        raise NoCommonCodec("the audio stream was refused")
    media = answer.media[index]
    chosen = _choose(media, [name for _, name, _ in ours.codecs() if name in PAYLOAD_TYPES])
    if chosen is None:
        raise NoCommonCodec("the answer names no codec of the offer")
    event_pt = _telephone_event(media) if _telephone_event(ours) is not None else None
    direction = answer.direction(media).mirrored.restricted_to(offer.direction(ours))
    agreed = _settle(answer, media, answer, (chosen[1], chosen[0], event_pt), direction)
    mux = all(line.attribute("rtcp-mux") is not None for line in (ours, media))
    return replace(agreed, rtcp_mux=mux, srtp=_answered_keys(ours, media))


def _answered_keys(ours: MediaDescription, theirs: MediaDescription) -> SrtpKeys | None:
    """RFC 4568 §5.1.3: the answer repeats tag and suite of the offered key that it chose."""
    if ours.is_secure != theirs.is_secure:
        raise NoCommonCodec(f"the answer has {theirs.protocol[:20]} where {ours.protocol} was offered")
    if not ours.is_secure:
        return None
    offered = {(key.tag, key.suite): key for key in usable_keys(ours.attributes)}
    for key in usable_keys(theirs.attributes):
        if (key.tag, key.suite) in offered:
            return SrtpKeys(offered[key.tag, key.suite], key)
    raise NoCommonCodec("the answer names no key for the encrypted stream")


def local_media(session: SessionDescription, codecs: tuple[str, ...]) -> LocalMedia:
    """Read back what we said, to answer a new offer in the same session (RFC 3264 §8)."""
    media = next((line for line in session.media if line.kind == "audio" and line.port), None)
    if media is None:
        raise SdpError("our own description has no audio stream")
    local = LocalMedia(
        session.media_host(media), media.port, codecs, session.session_id, session.session_version,
        telephone_event=_telephone_event(media) is not None, rtcp_mux=media.attribute("rtcp-mux") is not None,
    )  # fmt: skip
    keys = usable_keys(media.attributes) if media.is_secure else []
    # what is encrypted stays so, with the key that our roll-over counter belongs to
    return replace(local, srtp="required", srtp_key=keys[0].master) if keys else local


def _choose(media: MediaDescription, codecs: Sequence[str]) -> tuple[int, str] | None:
    if media.kind != "audio" or not media.port or media.protocol not in _PLAIN + _SECURE:
        return None
    for payload_type, name, clock_hz in media.codecs():
        if name in codecs and clock_hz == 8000:
            return payload_type, name
    return None


def _telephone_event(media: MediaDescription) -> int | None:
    """Payload type of telephone-event at the clock of G.711; Opus offers often bring a second one at 48 kHz."""
    for payload_type, name, clock_hz in media.codecs():
        if name == "TELEPHONE-EVENT" and clock_hz == 8000:
            return payload_type
    return None


def _settle(
    remote: SessionDescription, media: MediaDescription, answer: SessionDescription,
    stream: tuple[str, int, int | None], direction: Direction,
) -> Negotiated:  # fmt: skip
    host = remote.media_host(media)
    if not host:
        raise SdpError("the audio stream has no c= line")
    try:
        # RFC 8866 §5.7 allows names; a socket would look one up for each packet and stand still meanwhile
        ipaddress.ip_address(host)
    except ValueError:
        raise SdpError(f"{host[:60]} in c= is a name, not an address") from None
    codec, payload_type, event_pt = stream
    ptime_ms = min(_milliseconds(media, "ptime") or 20, _milliseconds(media, "maxptime") or 1000)
    rtcp = _rtcp_address(media, host)
    return Negotiated(answer, codec, payload_type, event_pt, host, media.port, direction, ptime_ms, rtcp)


def _milliseconds(media: MediaDescription, name: str) -> int | None:
    text = (media.attribute(name) or "").partition(".")[0]
    return int(text) or None if re.match(r"[0-9]{1,3}\Z", text) else None


def _rtcp_address(media: MediaDescription, host: str) -> tuple[str, int]:
    """The port after RTP's (RFC 3550 §11), or what `a=rtcp` names (RFC 3605)."""
    words = (media.attribute("rtcp") or "").split()
    if not words or not _NUMBER.match(words[0]) or not 0 < int(words[0]) < 65536:
        return host, min(media.port + 1, 65535)
    if len(words) == 4:
        with suppress(ValueError):  # a name, and nothing is looked up here: RTP's own address is the best guess
            host = str(ipaddress.ip_address(words[3]))
    return host, int(words[0])


def _session(local: LocalMedia, media: tuple[MediaDescription, ...]) -> SessionDescription:
    return SessionDescription(
        "callbus", local.session_id, local.session_version, local.host, local.host, media, session_name="callbus"
    )


def _audio_line(
    local: LocalMedia, codecs: Sequence[tuple[str, int]], event_pt: int | None, direction: Direction
) -> MediaDescription:
    attributes: list[Attribute] = [("rtpmap", f"{pt} {name}/8000") for name, pt in codecs]
    formats = [str(pt) for _, pt in codecs]
    if event_pt is not None:
        formats.append(str(event_pt))
        attributes += [("rtpmap", f"{event_pt} telephone-event/8000"), ("fmtp", f"{event_pt} 0-15")]
    attributes += [("ptime", str(local.ptime_ms)), (direction.value, None)]
    return MediaDescription("audio", local.port, "RTP/AVP", tuple(formats), "", tuple(attributes))


def _refused(media: MediaDescription) -> MediaDescription:
    return MediaDescription(media.kind, 0, media.protocol, media.formats)
