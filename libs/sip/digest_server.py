"""Digest access authentication, the asking side: who may call us on a trunk without registration (RFC 7616 §3.3, §5).

A nonce is its time and a token under an HMAC, so a challenge costs no memory and a flood of unknown callers leaves
nothing behind. Only nonces that were answered rightly are remembered, until they are too old to be accepted anyway;
that is enough to refuse a repeated `nc` (replay, RFC 7616 §5.12).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from libs.sip.digest import Answer, Challenge, Login, digest_response, parse_digest

MAX_REMEMBERED = 20_000


class Verdict(StrEnum):
    """What became of a request's Authorization. All but ACCEPTED deserve 401 with `challenge`."""

    ACCEPTED = "accepted"
    MISSING = "missing"
    STALE = "stale"
    REPLAYED = "replayed"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Checked:
    """A verdict and, when accepted, the user name."""

    verdict: Verdict
    username: str = ""


class DigestServer:
    """Challenges and checks for one realm. `secret` signs nonces; `password_of` gives None for unknown users."""

    def __init__(
        self, realm: str, password_of: Callable[[str], str | None], secret: bytes, new_token: Callable[[], str],
        nonce_lifetime_s: float = 300.0,
    ) -> None:  # fmt: skip
        self._realm = realm
        self._password_of = password_of
        self._secret = secret
        self._new_token = new_token
        self._lifetime_s = nonce_lifetime_s
        self._last_nc: dict[str, tuple[int, float]] = {}

    def challenge(self, now: float, stale: bool = False) -> list[tuple[str, str]]:
        """WWW-Authenticate lines, SHA-256 before MD5 (RFC 8760 §2.3); `stale` asks for no new password."""
        nonce = self._sign(f"{int(now * 1000):x}.{self._new_token()}")
        rest = f'realm="{self._realm}", nonce="{nonce}", qop="auth"' + (", stale=true" if stale else "")
        return [("WWW-Authenticate", f"Digest algorithm={algorithm}, {rest}") for algorithm in ("SHA-256", "MD5")]

    def check(self, method: str, authorization: Iterable[str], now: float) -> Checked:
        """Judge the Authorization lines of a request."""
        mine = [found for line in authorization for found in parse_digest(line) if found.get("realm") == self._realm]
        if not mine:
            return Checked(Verdict.MISSING)
        given = mine[0]
        nonce = given.get("nonce", "")
        age_s = self._age_s(nonce, now)
        if age_s is None:
            return Checked(Verdict.STALE)  # of another process or forged: no secret is told by asking again
        challenge = Challenge(self._realm, nonce, given.get("algorithm", ""))
        nc = _hexadecimal(given.get("nc", "")) if given.get("qop") else 1  # RFC 2069 clients get one use
        if nc is None or not challenge.strength or given.get("qop", "auth") != "auth":
            return Checked(Verdict.WRONG)
        username = given.get("username", "").replace('\\"', '"').replace("\\\\", "\\")
        password = self._password_of(username)
        answer = Answer(method, given.get("uri", ""), given.get("cnonce", ""), nc, given.get("qop", ""))
        expected = digest_response(Login(username, password or ""), challenge, answer)
        is_right = hmac.compare_digest(expected.encode(), given.get("response", "").lower().encode())
        if password is None or not is_right:
            return Checked(Verdict.WRONG)
        if age_s > self._lifetime_s:
            return Checked(Verdict.STALE)
        return Checked(Verdict.ACCEPTED, username) if self._count(nonce, nc, now) else Checked(Verdict.REPLAYED)

    def _count(self, nonce: str, nc: int, now: float) -> bool:
        """True when this use of the nonce is new."""
        last, _ = self._last_nc.get(nonce, (0, now))
        if nc <= last:
            return False
        if nonce not in self._last_nc:
            # first used, first forgotten: by then the nonce is too old to be accepted
            while self._last_nc and (oldest := next(iter(self._last_nc))) and self._is_forgettable(oldest, now):
                del self._last_nc[oldest]
            if len(self._last_nc) >= MAX_REMEMBERED:
                return False
        self._last_nc[nonce] = nc, self._last_nc.get(nonce, (0, now))[1]
        return True

    def _is_forgettable(self, nonce: str, now: float) -> bool:
        return now - self._last_nc[nonce][1] > self._lifetime_s

    def _sign(self, text: str) -> str:
        mac = hmac.new(self._secret, f"{self._realm}:{text}".encode(), hashlib.sha256)
        return f"{text}.{mac.hexdigest()[:32]}"

    def _age_s(self, nonce: str, now: float) -> float | None:
        """Seconds since we made the nonce, None when we did not."""
        text = nonce.rpartition(".")[0]
        if not text or not hmac.compare_digest(self._sign(text).encode(), nonce.encode()):
            return None
        made_ms = _hexadecimal(text.partition(".")[0])
        return now - made_ms / 1000 if made_ms is not None else None


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
