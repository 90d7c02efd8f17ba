"""Tokens that let a browser in: signed, short-lived, for one use, bound to what they allow. A core without I/O.

`<payload>.<signature>`, both base64url without padding (RFC 4648 §5): the payload is a `Grant` as JSON, the
signature its HMAC-SHA256 (RFC 2104). Times are seconds since 1970, so that whoever shares the secret can mint.

A token that is wrong, and one that was used, get the same answer: nobody learns which it was. Only the holder of a
rightly signed token hears that it came too late.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from typing import Literal

from pydantic import Field, ValidationError

from libs.contracts.agent import DEFAULT_ORG
from libs.contracts.model import Message

MAX_TOKEN_CHARACTERS = 2000
CLOCK_SKEW_S = 5.0
MAX_LIFE_S = 3600.0  # whoever mints: no token waits longer than this for its use

Token = r"^[A-Za-z0-9_-]{1,64}$"


class Grant(Message):
    """What a token allows: a call to one user of an organisation, or the take-over of one call."""

    kind: Literal["call", "take_over"]
    org: str = Field(DEFAULT_ORG, pattern=Token)
    to: str = Field("", max_length=100)  # call: the called user or number, as a route matches it
    caller: str = Field("browser", max_length=100)  # call: what stands as its caller
    call: str = Field("", max_length=64)  # take_over: whose
    gw: str = ""  # the gateway that alone accepts it; empty: any that knows the secret
    token_id: str = Field(min_length=8, max_length=64)
    expires_at: float


class TokenRefused(ValueError):
    """Not let in. `reason` is one of `not_accepted`, `expired`."""

    def __init__(self, reason: Literal["not_accepted", "expired"]) -> None:
        super().__init__("the token has expired" if reason == "expired" else "the token was not accepted")
        self.reason = reason


class Tokens:
    """Mints and redeems. `new_id` gives ids that nobody can guess."""

    def __init__(self, secret: bytes, gw: str, *, ttl_s: float, new_id: Callable[[], str]) -> None:
        self._secret = secret
        self._gw = gw
        self._ttl_s = ttl_s
        self._new_id = new_id
        self._used: dict[str, float] = {}  # token id -> when it may be forgotten
        self.counters: Counter[str] = Counter()

    def mint_call(self, org: str, to: str, now: float, *, caller: str = "browser") -> tuple[str, Grant]:
        """A token for one call to `to`.

        Raises:
            ValidationError: `org`, `to` or `caller` cannot be used.
        """
        grant = Grant(kind="call", org=org, to=to, caller=caller, gw=self._gw, token_id=self._new_id(),
                      expires_at=now + self._ttl_s)  # fmt: skip
        return self.sign(grant), grant

    def mint_take_over(self, org: str, call: str, now: float) -> tuple[str, Grant]:
        """A token for the take-over of `call`.

        Raises:
            ValidationError: `org` or `call` cannot be used.
        """
        grant = Grant(kind="take_over", org=org, call=call, gw=self._gw, token_id=self._new_id(),
                      expires_at=now + self._ttl_s)  # fmt: skip
        return self.sign(grant), grant

    def sign(self, grant: Grant) -> str:
        """The token of a grant."""
        self.counters["minted"] += 1
        payload = _b64(grant.to_json())
        return f"{payload}.{_b64(self._signature(payload))}"

    def redeem(self, token: str, kind: Literal["call", "take_over"], now: float) -> Grant:
        """What the token allows; from now on it allows nothing more.

        Raises:
            TokenRefused: it is not ours, too late, used, or for something else.
        """
        try:
            grant = self._read(token, kind, now)
        except TokenRefused as refused:
            self.counters[refused.reason] += 1
            raise
        self.counters["redeemed"] += 1
        return grant

    def _read(self, token: str, kind: str, now: float) -> Grant:
        payload, dot, signature = token.partition(".")
        if not dot or len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise TokenRefused("not_accepted")
        if not hmac.compare_digest(signature, _b64(self._signature(payload))):
            raise TokenRefused("not_accepted")
        try:
            grant = Grant.model_validate_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (ValidationError, binascii.Error, ValueError):
            raise TokenRefused("not_accepted") from None
        if grant.kind != kind or grant.gw not in ("", self._gw) or grant.expires_at > now + MAX_LIFE_S + CLOCK_SKEW_S:
            raise TokenRefused("not_accepted")
        self._forget(now)
        if grant.token_id in self._used:
            raise TokenRefused("not_accepted")
        if now >= grant.expires_at:
            raise TokenRefused("expired")
        self._used[grant.token_id] = grant.expires_at + CLOCK_SKEW_S
        return grant

    def _forget(self, now: float) -> None:
        """Ids of tokens that have expired need not be remembered."""
        for token_id in [known for known, until in self._used.items() if until <= now]:
            del self._used[token_id]

    def _signature(self, payload: str) -> bytes:
        return hmac.new(self._secret, payload.encode(), hashlib.sha256).digest()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
