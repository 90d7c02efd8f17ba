"""Who calls, and whom, as Twilio writes it."""

from __future__ import annotations

from libs.call_leg.numbers import ANONYMOUS

# What Twilio shows in place of a withheld number: words on a telephone's keys (RESTRICTED, BLOCKED, UNKNOWN …).
WITHHELD = frozenset({"+7378742833", "+2562533", "+8566696", "+266696687", "+86282452253"})
SCHEMES = ("sip", "sips", "client")


def party(value: str) -> str:
    """The number, or the name in a `sip:` or `client:` address; `anonymous` for a withheld number."""
    value = value.strip()
    if value in WITHHELD:
        return ANONYMOUS
    scheme, colon, rest = value.partition(":")
    if colon and scheme.lower() in SCHEMES:
        return rest.partition("@")[0].partition(";")[0]
    return value
