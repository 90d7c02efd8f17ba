"""A provider that is strict and awkward, as far as one trunk can see it: registrar, proxy and far end in one.

It loses the first INVITE, challenges and sends its challenge twice, answers from another Contact behind a Record-Route,
and takes the call down when an ACK, a route or a CSeq is not what the standard asks for. Written from the RFCs with
string handling of its own, so that it does not share the mistakes of the agent under test.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

PROVIDER = ("192.0.2.20", 5060)
PROXY = ("192.0.2.51", 5062)
REALM, USER, PASSWORD = "provider.example", "trunk7", "s3cret"
CONTACT = "sip:leg9@192.0.2.77:5090"
ROUTES = ["<sip:192.0.2.51:5062;lr;x=1>", "<sip:192.0.2.52;lr>"]


def header(text: str, name: str) -> str:
    match = re.search(rf"^{name}: (.*?)\r$", text, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else ""


def headers(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}: (.*?)\r$", text, re.MULTILINE | re.IGNORECASE)


def digest_is_right(text: str, nonce: str, password: str = PASSWORD, name: str = "Authorization") -> bool:
    """RFC 2617 with MD5 and qop=auth, computed by hand."""
    value = header(text, name)
    given = dict(re.findall(r'(\w+)="?([^",]*)"?', value))

    def md5(data: str) -> str:
        return hashlib.md5(data.encode()).hexdigest()

    method, uri = text.split(" ")[:2]
    expected = md5(
        f"{md5(f'{USER}:{REALM}:{password}')}:{nonce}:{given.get('nc')}:{given.get('cnonce')}:auth:{md5(f'{method}:{uri}')}"
    )
    return given.get("nonce") == nonce and given.get("uri") == uri and given.get("response") == expected


@dataclass
class Provider:
    """`receive` takes a datagram and gives datagrams with delays in seconds; `complaints` must stay empty."""

    answer_sdp: str
    session_expires: str = ""
    lose_first: bool = True
    auth_status: str = "407 Proxy Authentication Required"
    complaints: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    ended: bool = False
    acks: int = 0
    _invites: int = 0
    _challenged: dict[str, str] = field(default_factory=dict)
    _cseq: int = 0
    _nc: dict[str, int] = field(default_factory=dict)
    ok: str = ""

    @property
    def _asking(self) -> str:
        return "Proxy-Authenticate" if self.auth_status.startswith("407") else "WWW-Authenticate"

    @property
    def _answering(self) -> str:
        return "Proxy-Authorization" if self.auth_status.startswith("407") else "Authorization"

    def receive(self, data: bytes, destination: tuple[str, int]) -> list[tuple[float, bytes]]:
        text = data.decode()
        method = text.split(" ")[0]
        self.log.append(method)
        if method == "INVITE" and not header(text, "To").count("tag="):
            return self._invite(text)
        if method == "ACK":
            self._ack(text, destination)
            return []
        self._in_dialog(text, method, destination)
        if header(text, "CSeq") == "" or self.ended:
            return []
        if not header(text, self._answering):
            return [(0.0, self._challenge(text, "c2", "dialog-nonce"))]
        self._check_digest(text, "dialog-nonce" if "dialog-nonce" in text else "first-nonce")
        if method == "BYE":
            self.ended = True
        expires = f"Session-Expires: {self.session_expires}\r\n" if method in ("UPDATE", "INVITE") else ""
        return [(0.0, self._response(text, "200 OK", "far", f"Contact: <{CONTACT}>\r\n{expires}"))]

    def _invite(self, text: str) -> list[tuple[float, bytes]]:
        self._invites += 1
        if self._invites == 1 and self.lose_first:
            return []
        if not header(text, "Session-Expires"):
            self.complaints.append("the first INVITE has no Session-Expires")
        if not header(text, self._answering):
            challenge = self._challenge(text, "challenger", "first-nonce")
            return [(0.0, challenge), (0.6, challenge)]
        self._check_digest(text, "first-nonce")
        self._cseq = int(header(text, "CSeq").split()[0])
        record_route = "".join(f"Record-Route: {route}\r\n" for route in ROUTES)
        expires = f"Session-Expires: {self.session_expires}\r\nRequire: timer\r\n" if self.session_expires else ""
        extra = f"{record_route}Contact: <{CONTACT}>\r\nAllow: INVITE, ACK, BYE, UPDATE\r\n{expires}"
        ok = self._response(text, "200 OK", "far", extra + "Content-Type: application/sdp\r\n", self.answer_sdp)
        self.ok = ok.decode()
        trying, ringing = self._response(text, "100 Trying", ""), self._response(text, "180 Ringing", "far", extra)
        return [(0.0, trying), (0.7, ringing), (1.0, ok), (1.5, ok)]

    def _challenge(self, text: str, tag: str, nonce: str) -> bytes:
        self._challenged[header(text, "Via")] = tag
        value = f'Digest realm="{REALM}", qop="auth,auth-int", nonce="{nonce}", opaque="", stale=FALSE, algorithm=MD5'
        return self._response(text, self.auth_status, tag, f"{self._asking}: {value}\r\n")

    def _check_digest(self, text: str, nonce: str) -> None:
        if not digest_is_right(text, nonce, name=self._answering):
            self.complaints.append(f"wrong digest in {text.split(maxsplit=1)[0]}: {header(text, self._answering)}")
        nc = int(re.search(r"nc=([0-9a-f]{8})", header(text, self._answering))[1], 16)
        if nc <= self._nc.get(nonce, 0):
            self.complaints.append(f"nc {nc} again")
        self._nc[nonce] = nc

    def _ack(self, text: str, destination: tuple[str, int]) -> None:
        tag = self._challenged.get(header(text, "Via"))
        if tag is not None:
            if not header(text, "To").endswith(f";tag={tag}") or headers(text, "Route"):
                self.complaints.append("the ACK to the challenge is not on its branch with its tag")
            return
        self.acks += 1
        if header(text, "CSeq") != f"{self._cseq} ACK":
            self.complaints.append(f"ACK with CSeq {header(text, 'CSeq')}")
        self._check_path(text, destination)

    def _in_dialog(self, text: str, method: str, destination: tuple[str, int]) -> None:
        self._check_path(text, destination)
        cseq = int(header(text, "CSeq").split()[0])
        if cseq <= self._cseq:
            self.complaints.append(f"{method} with CSeq {cseq} after {self._cseq}")
        self._cseq = cseq

    def _check_path(self, text: str, destination: tuple[str, int]) -> None:
        method, uri = text.split(" ")[:2]
        found = (uri, headers(text, "Route"), header(text, "To").rpartition("tag=")[2], destination)
        if found != (CONTACT, ROUTES[::-1], "far", ("192.0.2.52", 5060)):
            self.complaints.append(f"{method} went {found}")

    def _response(self, text: str, status: str, tag: str, extra: str = "", body: str = "") -> bytes:
        to = header(text, "To")
        to = to if not tag or "tag=" in to else f"{to};tag={tag}"
        return (
            f"SIP/2.0 {status}\r\nVia: {header(text, 'Via')};received=192.0.2.10\r\nFrom: {header(text, 'From')}\r\n"
            f"To: {to}\r\nCall-ID: {header(text, 'Call-ID')}\r\nCSeq: {header(text, 'CSeq')}\r\n"
            f"{extra}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Trunk:
    """One agent and one provider on a clock of their own."""

    def __init__(self, core, provider: Provider) -> None:
        self.core, self.provider = core, provider
        self.now = 0.0
        self.told: list = []
        self._due: list[tuple[float, bytes]] = []

    def does(self, actions) -> None:
        from libs.sip.events import Send

        for action in actions:
            if isinstance(action, Send):
                answers = self.provider.receive(action.data, action.destination)
                self._due += [(self.now + delay, data) for delay, data in answers]
            else:
                self.told.append(action)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            self._due.sort(key=lambda entry: entry[0])
            deadline = self.core.deadline()
            at = min([entry[0] for entry in self._due[:1]] + ([deadline] if deadline is not None else []), default=None)
            if at is None or at > until:
                break
            self.now = max(self.now, at)
            if self._due and self._due[0][0] <= self.now:
                self.does(self.core.receive(self._due.pop(0)[1], PROVIDER, self.now))
            else:
                self.does(self.core.expire(self.now))
        self.now = until
