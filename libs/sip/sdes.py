"""Keys of SRTP in a session description: `a=crypto` (RFC 4568, SDP Security Descriptions).

The two suites that telephones and providers use. Whoever sees the signalling sees the keys, so it belongs on TLS.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from libs.sip.errors import SdpError

SrtpPolicy = Literal["off", "optional", "required"]
SUITES = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
MASTER_BYTES = 30  # RFC 4568 §6.2: 16 of key, 14 of salt
_TAG = re.compile(r"[0-9]{1,9}\Z")


@dataclass(frozen=True, slots=True)
class CryptoKey:
    """One crypto attribute. `master` is key and salt; it never shows in a repr, so never in a log."""

    suite: str
    master: bytes = field(repr=False)
    tag: int = 1

    @classmethod
    def parse(cls, value: str) -> CryptoKey:
        """Read the value of an `a=crypto` line. Raises SdpError, without the key in it, for what we cannot serve."""
        words = value.split()
        if len(words) < 3 or not _TAG.match(words[0]):
            raise SdpError("a=crypto needs a tag, a suite and a key")
        tag, suite, keys, *parameters = words
        if suite not in SUITES:
            raise SdpError(f"crypto suite {suite[:40]!r} is none of {', '.join(SUITES)}")
        # §6.3: a parameter that changes what goes over the wire must be understood; the window's size is a hint
        if any(not parameter.startswith("WSH=") for parameter in parameters):
            raise SdpError("a=crypto has session parameters that are not served")
        method, _, rest = keys.partition(":")
        inline, *details = rest.split("|")
        # details are a lifetime, or an identifier for one of several keys; we have one key and no identifiers
        if method != "inline" or ";" in keys or any(":" in detail for detail in details):
            raise SdpError("a=crypto needs one inline key without a master key identifier")
        try:
            master = base64.b64decode(inline, validate=True)
        except binascii.Error:
            raise SdpError("the key of a=crypto is not base64") from None
        if len(master) != MASTER_BYTES:
            raise SdpError(f"the key of a=crypto has {len(master)} bytes, not {MASTER_BYTES}")
        return cls(suite, master, int(tag))

    def attribute(self) -> tuple[str, str]:
        """Name and value for a media description."""
        return "crypto", f"{self.tag} {self.suite} inline:{base64.b64encode(self.master).decode()}"


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """What was agreed: with `ours` we protect what we send, with `theirs` the peer does."""

    ours: CryptoKey
    theirs: CryptoKey


def usable_keys(attributes: Iterable[tuple[str, str | None]]) -> list[CryptoKey]:
    """The crypto attributes that we can serve, in the order of preference; the others are passed over (§5.1.2)."""
    found = []
    for name, value in attributes:
        if name == "crypto" and value:
            try:
                found.append(CryptoKey.parse(value))
            except SdpError:
                continue
    return found
