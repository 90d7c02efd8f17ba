"""The SIP messages of a call as a ladder for people: our side left, the peer right. No I/O.

Read leniently, unlike `libs.sip`: a trace must show the message that nobody understands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from rich.text import Text

from libs.contracts.events import SipTraced

WIDTH = 48  # of an arrow, its label included
_COMPACT = {"v": "via", "f": "from", "t": "to", "i": "call-id", "c": "content-type", "l": "content-length"}
_SECRET_HEADER = re.compile(r"(?im)^((?:proxy-)?authorization[ \t]*:)[^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*")
_SDES_KEY = re.compile(r"(?im)^(a=crypto:[^\r\n]*?inline:)(?!\[)([^\s|;]+)")
_SDP_KEY = re.compile(r"(?im)^(k=(?:clear|base64|uri):)([^\r\n]+)")
_URI_PASSWORD = re.compile(r"(?i)(sips?:[^\s:@<>;]+:)([^\s@<>]+)(@)")


def without_credentials(text: str) -> str:
    """A SIP message without what would let somebody in or listen: digest answers, SDES keys, passwords in URIs.

    The body keeps its length, so that Content-Length stays true.
    """
    head, blank, body = _parts(text)
    head = _URI_PASSWORD.sub(r"\1***\3", _SECRET_HEADER.sub(r"\1 [removed]", head))
    for pattern in (_SDES_KEY, _SDP_KEY):
        body = pattern.sub(lambda match: match[1] + "*" * len(match[2]), body)
    return head + blank + body


def _parts(text: str) -> tuple[str, str, str]:
    """Head, the empty line, body."""
    for blank in ("\r\n\r\n", "\n\n"):
        head, found, body = text.partition(blank)
        if found:
            return head, found, body
    return text, "", ""


@dataclass(frozen=True, slots=True)
class SipLine:
    """What of a message stands in the ladder."""

    title: str  # `INVITE sip:…`, `200 OK`
    method: str  # of CSeq
    number: str  # of CSeq
    dialog: str  # its Call-ID
    media: str  # summary of its SDP; empty without


def read(text: str) -> SipLine:
    """Read a message as far as it can be read."""
    head, _, body = _parts(text)
    lines = head.splitlines() or [""]
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.strip().lower()
        headers.setdefault(_COMPACT.get(name, name), value.strip())
    first = lines[0].strip()
    title = first.removeprefix("SIP/2.0 ") if first.startswith("SIP/2.0 ") else _request(first)
    number, _, method = headers.get("cseq", "").partition(" ")
    is_sdp = "sdp" in headers.get("content-type", "sdp").lower()
    return SipLine(title, method.strip(), number, headers.get("call-id", ""), media_summary(body) if is_sdp else "")


def _request(line: str) -> str:
    """Method and URI without its parameters, which seldom matter and take the room."""
    method, _, rest = line.partition(" ")
    return f"{method} {rest.split(' ')[0].partition(';')[0]}".rstrip()


def media_summary(sdp: str) -> str:
    """Codecs, address:port and direction of each audio stream of a session description; empty when it has none."""
    session_host, shown, names = "", [], dict[str, str]()
    ports: list[tuple[str, list[str]]] = []
    host, direction = "", ""
    lines = [line.strip() for line in sdp.splitlines()]
    for line in lines:
        if match := re.match(r"a=rtpmap:(\d+) ([^/\s]+)", line):
            names[match[1]] = match[2]
        elif line.startswith("c=") and not ports:
            session_host = line.split()[-1]
        elif line.startswith("c="):
            host = line.split()[-1]
        elif line.startswith("m="):
            words = line[2:].split()
            if len(words) >= 4:
                ports.append((words[1], words[3:]))
        elif line in {"a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"}:
            direction = line[2:]
    for port, formats in ports:
        codecs = ",".join(names.get(f) or _STATIC.get(f, f) for f in formats)
        shown.append(f"{codecs} {host or session_host}:{port}")
    crypto = " SRTP" if any(line.startswith("a=crypto:") for line in lines) else ""
    return "; ".join(shown) + crypto + (f" {direction}" if direction and shown else "")


_STATIC = {"0": "PCMU", "8": "PCMA", "9": "G722"}  # RFC 3551 §6


@dataclass(slots=True)
class Ladder:
    """Makes one or more lines of each traced message, in their order."""

    _began_at: datetime | None = None
    _before_at: datetime | None = None
    _with: tuple[str, str, str] | None = None
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    def lines(self, event: SipTraced) -> list[Text]:
        """A heading where the peer changes, then the arrow with times, CSeq and media."""
        made = []
        now_with = (event.local, event.transport, event.peer)
        if now_with != self._with:
            self._with = now_with
            made.append(
                Text(f"{'':21}{event.local:<{WIDTH // 2}}{event.peer:>{WIDTH // 2}}  {event.transport}", "bold")
            )
        self._began_at = self._began_at or event.at
        since_ms = (event.at - self._began_at).total_seconds() * 1000
        delta_ms = (event.at - (self._before_at or event.at)).total_seconds() * 1000
        self._before_at = event.at
        said = read(event.text)
        text = Text(f"{since_ms / 1000:9.3f} s  {f'+{delta_ms:.0f}':>6}  ", style="dim")
        text.append(arrow(event.direction, said.title), style=_style(said.title))
        text.append(f"  {said.number:>3} {said.method}" if said.method else "", style="dim")
        key = (event.direction, event.peer, event.text)
        text.append("  (repeated)" if key in self._seen else "", style="yellow")
        self._seen.add(key)
        text.append(f"  {said.media}" if said.media else "", style="cyan")
        return [*made, text]


def arrow(direction: str, title: str) -> str:
    """`│───── 200 OK ────▶│`, or the other way round; always of the same width."""
    most = WIDTH - 8
    label = title if len(title) <= most else title[: most - 1] + "…"
    line = f" {label} ".center(WIDTH - 1, "─")
    return f"│{line}▶│" if direction == "out" else f"│◀{line}│"


def _style(title: str) -> str:
    match title[:1]:
        case "1":
            return "dim"
        case "2":
            return "green"
        case "3":
            return "yellow"
        case "4" | "5" | "6":
            return "red"
        case _:
            return "bold"
