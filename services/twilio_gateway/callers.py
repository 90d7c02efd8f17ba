"""Who calls, and whom, as Twilio writes it."""

from __future__ import annotations

from libs.call_leg.numbers import ANONYMOUS, normalise

# What Twilio shows in place of a withheld number: words on a telephone's keys (RESTRICTED, BLOCKED, UNKNOWN …).
WITHHELD = frozenset({"+7378742833", "+2562533", "+8566696", "+266696687", "+86282452253"})


def party(value: str, country: str) -> str:
    """E.164, `anonymous`, or the name in a `sip:` or `client:` address."""
    value = value.strip()
    if value in WITHHELD:
        return ANONYMOUS
    scheme, colon, rest = value.partition(":")
    if colon and scheme.lower() in ("sip", "sips", "client"):
        value = rest.partition("@")[0].partition(";")[0]
    return normalise(value, country)
