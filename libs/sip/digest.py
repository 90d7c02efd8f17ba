"""Digest access authentication, the answering side (RFC 3261 §22, RFC 7616, RFC 8760; RFC 2617 for old servers).

A server challenges a request with 401 (the far end) or 407 (a proxy on the way); the same request is sent again with an
answer for each realm. `parse_challenges` reads what servers really send; `Authenticator` keeps, for one dialog or
registration, the challenge of each realm, counts `nc` per nonce, and says when trying again is pointless. Passwords
come from the injected `Credentials` and never leave this module except hashed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from libs.sip.errors import SipError
from libs.sip.uri import split_quoted

# RFC 8760 §2.4: the strongest algorithm that both sides know
_HASHES = {"MD5": 1, "SHA-256": 2}
MAX_ANSWERS = 3
MAX_CHALLENGES = 16
MAX_REALMS = 4
_SCHEME_THEN_PARAMETER = re.compile(r"([A-Za-z0-9_-]+)\s+([A-Za-z0-9_-]+\s*=.*)\Z", re.DOTALL)


class DigestError(SipError):
    """A challenge that cannot be answered, or not again; the request has failed for good."""


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password for one realm. The password stays out of `repr`."""

    username: str
    password: str = field(repr=False)


Credentials = Callable[[str], Login | None]
"""The login for a realm, None when we have none there."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One Digest challenge. Values are kept as received, `algorithm` is "" when the server did not say one."""

    realm: str
    nonce: str
    algorithm: str = ""
    qop: tuple[str, ...] = ()
    opaque: str | None = None
    stale: bool = False

    @property
    def strength(self) -> int:
        """Order of preference; 0 for an algorithm or qop that we do not know."""
        if self.qop and not {"auth", "auth-int"} & set(self.qop):
            return 0
        return _HASHES.get((self.algorithm or "MD5").upper().removesuffix("-SESS"), 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes into the response value beside the login and the challenge (RFC 7616 §3.4)."""

    method: str
    uri: str
    cnonce: str = ""
    nc: int = 1
    qop: str = ""
    body: bytes = b""


def parse_digest(line: str) -> list[dict[str, str]]:
    """Parameters of each Digest challenge or answer in a header line, names in lower case; other schemes are skipped.

    A line may hold several challenges, and commas stand in quoted values: `qop="auth,auth-int"`.
    """
    found: list[dict[str, str]] = []
    current: dict[str, str] | None = None
    for part in split_quoted(line, ","):
        match = _SCHEME_THEN_PARAMETER.match(part)
        if match is not None:
            current = {} if match[1].lower() == "digest" else None
            if current is not None:
                found.append(current)
            part = match[2]  # noqa: PLW2901  the scheme is read, its first parameter follows
        name, equals, value = part.partition("=")
        if equals and current is not None:
            value = value.strip()
            quoted = len(value) >= 2 and value[0] == value[-1] == '"'
            current.setdefault(name.strip().lower(), value[1:-1] if quoted else value)
    return found


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The Digest challenges of WWW-Authenticate or Proxy-Authenticate lines; those without nonce are passed over."""
    return [
        Challenge(
            found.get("realm", ""), found["nonce"], found.get("algorithm", ""),
            tuple(word.strip().lower() for word in found.get("qop", "").split(",") if word.strip()),
            found.get("opaque"), found.get("stale", "").lower() == "true",
        )
        for line in lines
        for found in parse_digest(line)
        if found.get("nonce")
    ]  # fmt: skip


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def digest_response(login: Login, challenge: Challenge, answer: Answer) -> str:
    """The `response` value in hexadecimal (RFC 7616 §3.4.1 to §3.4.3)."""
    algorithm = (challenge.algorithm or "MD5").upper()

    def digest(data: str | bytes) -> str:
        data = data.encode() if isinstance(data, str) else data
        return hashlib.sha256(data).hexdigest() if algorithm.startswith("SHA-256") else _md5(data)

    secret = digest(f"{login.username}:{challenge.realm}:{login.password}")
    if algorithm.endswith("-SESS"):
        secret = digest(f"{secret}:{challenge.nonce}:{answer.cnonce}")
    request = f"{answer.method}:{answer.uri}"
    if answer.qop == "auth-int":
        request = f"{request}:{digest(answer.body)}"
    if not answer.qop:
        return digest(f"{secret}:{challenge.nonce}:{digest(request)}")
    return digest(f"{secret}:{challenge.nonce}:{answer.nc:08x}:{answer.cnonce}:{answer.qop}:{digest(request)}")


def authorization(login: Login, challenge: Challenge, answer: Answer) -> str:
    """Value of Authorization or Proxy-Authorization."""
    username = login.username.replace("\\", "\\\\").replace('"', '\\"')
    parts = [
        f'Digest username="{username}"', f'realm="{challenge.realm}"', f'nonce="{challenge.nonce}"',
        f'uri="{answer.uri}"', f'response="{digest_response(login, challenge, answer)}"',
    ]  # fmt: skip
    if challenge.algorithm:
        parts.append(f"algorithm={challenge.algorithm}")
    if challenge.opaque is not None:
        parts.append(f'opaque="{challenge.opaque}"')
    if answer.qop:
        parts += [f"qop={answer.qop}", f'cnonce="{answer.cnonce}"', f"nc={answer.nc:08x}"]
    elif challenge.algorithm.upper().endswith("-SESS"):
        parts.append(f'cnonce="{answer.cnonce}"')  # the server cannot compute A1 without it
    return ", ".join(parts)


RealmKey = tuple[str, str]
Tried = tuple[tuple[RealmKey, str], ...]
"""The nonces that one request has answered, by header and realm."""

_HEADERS = {401: ("www-authenticate", "Authorization"), 407: ("proxy-authenticate", "Proxy-Authorization")}


@dataclass(slots=True)
class _Session:
    login: Login
    challenge: Challenge
    cnonce: str
    nc: int = 0


class Authenticator:
    """What one dialog or registration knows about the realms on its way."""

    def __init__(self, credentials: Credentials | None, new_token: Callable[[], str]) -> None:
        self._credentials = credentials
        self._new_token = new_token
        self._sessions: dict[RealmKey, _Session] = {}

    def learn(self, status: int, headers: Mapping[str, Sequence[str]], tried: Tried = ()) -> Tried:
        """Take the challenges of a 401 or 407; gives `tried` with the nonces that are answered next.

        Raises DigestError when there is no login, nothing understood, or the answer was refused: a second challenge
        for a realm is only taken when it is `stale` with another nonce, and not for ever (RFC 7616 §3.3).
        """
        asked, answered = _HEADERS[status]
        challenges = parse_challenges(headers.get(asked, ()))
        best: dict[str, Challenge] = {}
        for challenge in challenges[:MAX_CHALLENGES]:
            if challenge.strength > (best[challenge.realm].strength if challenge.realm in best else 0):
                best[challenge.realm] = challenge
        if not best:
            raise DigestError(f"{status} without a Digest challenge that we understand")
        for challenge in best.values():
            tried = self._take((answered, challenge.realm), challenge, tried)
        return tried

    def _take(self, key: RealmKey, challenge: Challenge, tried: Tried) -> Tried:
        nonces = [nonce for realm, nonce in tried if realm == key]
        if nonces and (not challenge.stale or challenge.nonce in nonces or len(nonces) >= MAX_ANSWERS):
            self._sessions.pop(key, None)
            raise DigestError(f"realm {challenge.realm!r} refused our credentials")
        login = self._credentials(challenge.realm) if self._credentials is not None else None
        if login is None or len(tried) >= MAX_CHALLENGES:
            raise DigestError(f"no credentials for realm {challenge.realm!r}")
        session = self._sessions.get(key)
        if session is None or session.challenge.nonce != challenge.nonce:
            self._sessions.pop(key, None)
            self._sessions[key] = _Session(login, challenge, self._new_token())
            if len(self._sessions) > MAX_REALMS:
                # a server that renames its realm must not make our requests longer each time
                del self._sessions[next(iter(self._sessions))]
        return (*tried, (key, challenge.nonce))

    def headers(self, method: str, uri: str, body: bytes = b"") -> list[tuple[str, str]]:
        """Authorization and Proxy-Authorization lines for a request, one per realm seen so far."""
        lines = []
        for (name, _), session in self._sessions.items():
            challenge = session.challenge
            qop = "auth" if "auth" in challenge.qop else "auth-int" if challenge.qop else ""
            session.nc += 1
            answer = Answer(method, uri, session.cnonce, session.nc, qop, body)
            lines.append((name, authorization(session.login, challenge, answer)))
        return lines
