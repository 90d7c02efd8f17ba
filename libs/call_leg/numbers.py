"""Telephone numbers as an entrance reads them, to E.164 as it is used inside. Pure; never an exception."""

from __future__ import annotations

import re

import phonenumbers

LONGEST = 64
"""Characters of a caller or callee that go on: E.164 has at most 16, the rest are SIP users and names."""
ANONYMOUS = "anonymous"

_DIALABLE = re.compile(r"\+?[0-9().\-\s/]{3,}")
_SHORT = re.compile(r"[1-9][0-9]{0,5}")  # an extension or a service number: no area code, no trunk prefix
_WITHHELD = {ANONYMOUS, "unknown", "unavailable", "restricted", "private", "withheld"}
# RFC 3323 §4.1.1.3 (anonymous); the rest as trunks and Twilio write them, "+266696687" (ANONYMOUS on a keypad) included
_WITHHELD_NUMBERS = {"+266696687", "266696687", "+86282452253", "86282452253", "+7378742833", "7378742833"}


def normalise(user: str, country: str) -> str:
    """The E.164 form of a number, or the SIP user as it is when it is no number (`bestellung`).

    `country` (ISO 3166) is what a number without international prefix belongs to; each trunk has one. Extensions of
    a PBX (`101`, `4711`) and service numbers (`110`, `112`) are no E.164 numbers and stay. An empty user and the
    anonymous one of RFC 3323 are `anonymous`. Whatever comes in, what goes out is printable and at most `LONGEST`
    characters long.
    """
    user = printable(user)
    if user[:4].lower() == "tel:":  # RFC 3966
        user = user[4:].lstrip()
    if not user or user.lower() in _WITHHELD or user in _WITHHELD_NUMBERS:
        return ANONYMOUS
    digits = user.partition(";")[0]  # parameters of a telephone-subscriber (RFC 3261 §25.1): ;phone-context ;npdi ;rn
    if _DIALABLE.fullmatch(digits):
        user = digits.strip()
    if not _DIALABLE.fullmatch(user) or _SHORT.fullmatch(user):
        return user
    try:
        number = phonenumbers.parse(user, country)
    except phonenumbers.NumberParseException:
        return user
    if not phonenumbers.is_valid_number(number):  # the right length alone would make +490000 of 0000
        return user
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def printable(text: str) -> str:
    """What may stand in events, logs and answers: no control, format or surrogate characters, bounded in length."""
    return "".join(filter(str.isprintable, text[: 4 * LONGEST])).strip()[:LONGEST].rstrip()
