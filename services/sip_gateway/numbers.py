"""Telephone numbers as they stand in SIP, to E.164 as it is used inside."""

from __future__ import annotations

import re

import phonenumbers

_DIALABLE = re.compile(r"\+?[0-9().\-\s/]{3,}")
_SHORT = re.compile(r"[1-9][0-9]{0,5}")  # an extension or a service number: no area code, no trunk prefix
ANONYMOUS = "anonymous"


def normalise(user: str, country: str) -> str:
    """The E.164 form of a number, or the SIP user as it is when it is no number (`bestellung`).

    `country` (ISO 3166) is what a number without international prefix belongs to. Extensions of a PBX
    (`101`) are no E.164 numbers and stay. An empty user or the anonymous one of RFC 3323 is `anonymous`.
    """
    user = user.strip()
    if not user or user.lower() in (ANONYMOUS, "unknown", "unavailable", "restricted"):
        return ANONYMOUS
    digits = user.partition(";")[0]  # parameters of a telephone-subscriber (RFC 3261 §25.1): ;phone-context ;npdi ;rn
    if _DIALABLE.fullmatch(digits):
        user = digits
    if not _DIALABLE.fullmatch(user) or _SHORT.fullmatch(user):
        return user
    try:
        number = phonenumbers.parse(user, country)
    except phonenumbers.NumberParseException:
        return user
    if not phonenumbers.is_valid_number(number):  # the right length alone would make +490000 of 0000
        return user
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
