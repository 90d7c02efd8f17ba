"""Which numbers a trunk may call, and how often: protection against toll fraud and slips. A core without I/O.

Theory of operation. A destination passes in this order, and the first objection is told in one sentence:
it is a telephone number (or a SIP URI, where those are allowed); no emergency or short number; nothing that costs
extra (premium, shared-cost, universal access, personal and satellite numbers, and the national ranges in `SPECIAL`
that the numbering data does not class); no denied prefix; one of the allowed prefixes. No allowed prefix named
means the trunk's own country: international fraud goes abroad, and an agent that serves one country never needs it.
Prefixes are written as `+49` or `+4930`; `+` alone is the whole world; one without plus (`2`) lets extensions of a PBX
through as they are, unless a denied prefix without plus names them, or what the PBX would put through to the public
network with them is an emergency number or costs extra.

Then the attempt is counted: at most `attempts_per_hour` in any 60 minutes, for this trunk and this gateway process.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

import phonenumbers
from phonenumbers import PhoneNumberType

from libs.call_leg.numbers import printable
from libs.contracts.termination import Reason, Termination

HOUR_S = 3600.0

COSTLY = {
    PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    PhoneNumberType.SHARED_COST: "a shared-cost number",
    PhoneNumberType.UAN: "a universal access number",
    PhoneNumberType.PERSONAL_NUMBER: "a personal number",
    PhoneNumberType.PAGER: "a pager",
    PhoneNumberType.VOICEMAIL: "a voicemail access number",
}
SPECIAL = {  # country code -> beginnings of national numbers that cost extra
    49: ("900", "190", "137", "138", "180", "181", "118", "12", "700"),  # Bundesnetzagentur, Nummernplan
    43: ("900", "901", "930", "931", "939", "810", "820", "821", "118"),  # RTR, KEM-V 2009
    41: ("900", "901", "906", "84", "18"),  # BAKOM
}
GLOBAL_SERVICES = (870, 878, 881, 882, 883, 888, 979)  # satellites and shared codes (ITU-T E.164, annex)

LONGEST_EXTENSION = 6  # digits; what is longer may be a number of the public network
OUTSIDE_LINE = "0"

_NUMBER = re.compile(r"\+?[0-9]{2,20}")
_DIGITS = re.compile(r"\+?[0-9]+")
_SEPARATORS = re.compile(r"[().\-\s/]")
_SIP_URI = re.compile(r"sips?:([A-Za-z0-9_.!~*'+-]{1,64})@([A-Za-z0-9.-]{1,120}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class NotAllowedError(ValueError):
    """The call may not be placed; `termination` says why, for the one who asked and for the record."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.termination = Termination.of(reason, sentence)


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """A trunk's fence. `country` (ISO 3166) is what numbers without international prefix belong to."""

    allowed_prefixes: tuple[str, ...] = ()
    denied_prefixes: tuple[str, ...] = ()
    attempts_per_hour: int = 60
    country: str = "DE"
    allow_sip_uris: bool = False
    allow_costly: bool = False
    organisation: str | None = None  # who may call through it; None: every one


class OutboundFence:
    """One per trunk. `number` judges a destination, `attempt` counts a call that is about to be placed, and `withdraw`
    takes that back where it was not."""

    def __init__(self, rules: OutboundRules) -> None:
        self.rules = rules
        self._attempts: deque[float] = deque()

    def number(self, to: str) -> str:
        """What is dialled: an E.164 number, an extension that the rules name, or a SIP URI.

        Raises:
            NotAllowedError: it is no number, or none that may be called.
        """
        text = printable(to)
        if text.lower().startswith(("sip:", "sips:")):
            return self._uri(text)
        if text[:4].lower() == "tel:":  # RFC 3966
            text = text[4:]
        digits = _SEPARATORS.sub("", text)
        if not _NUMBER.fullmatch(digits):
            raise _invalid(to, "write it as +49 30 1234567")
        if phonenumbers.connects_to_emergency_number(digits, self.rules.country):
            raise _forbidden(f"{digits} is an emergency number; agents never call those")
        if not digits.startswith("+") and self._is_extension(digits):
            return self._extension(digits)
        return self._e164(to, digits)

    def attempt(self, now: float) -> None:
        """Count a call.

        Raises:
            NotAllowedError: the trunk has placed its calls of this hour.
        """
        while self._attempts and now - self._attempts[0] >= HOUR_S:
            self._attempts.popleft()
        most = self.rules.attempts_per_hour
        if len(self._attempts) >= most:
            wait = "none are allowed"
            if self._attempts:
                wait = f"the next one may go in {int(self._attempts[0] + HOUR_S - now) // 60 + 1} min"
            sentence = f"the trunk's limit is {most} calls an hour: {wait}"
            raise NotAllowedError(Reason.TOO_MANY_ATTEMPTS, sentence)
        self._attempts.append(now)

    def withdraw(self) -> None:
        """The call that was counted last was not placed after all: nothing went out."""
        if self._attempts:
            self._attempts.pop()

    def _is_extension(self, digits: str) -> bool:
        prefixes = tuple(prefix for prefix in self.rules.allowed_prefixes if prefix and not prefix.startswith("+"))
        return digits.startswith(prefixes) if prefixes else False

    def _extension(self, digits: str) -> str:
        """An extension as it is, unless the PBX would put it through to what this trunk does not call."""
        rules = self.rules
        if denied := next((prefix for prefix in rules.denied_prefixes if prefix and digits.startswith(prefix)), None):
            raise _denied(digits, denied)
        for dialled in _readings(digits):
            if phonenumbers.connects_to_emergency_number(dialled, rules.country):
                raise _forbidden(f"{digits} is an emergency number; agents never call those")
            try:
                number = phonenumbers.parse(dialled, rules.country)
            except phonenumbers.NumberParseException:
                continue
            is_short = len(dialled) <= LONGEST_EXTENSION and not dialled.startswith("0")
            if is_short and not phonenumbers.is_valid_short_number_for_region(number, rules.country):
                continue  # 1190: of the PBX and of nobody else
            costly = _costly(number, number.country_code or 0, str(number.national_number))
            if costly and not rules.allow_costly:
                raise _forbidden(f"{digits} is {costly}; this trunk does not call those")
        return digits

    def _uri(self, text: str) -> str:
        if not self.rules.allow_sip_uris:
            raise _forbidden("SIP URIs may not be called over this trunk: name a telephone number")
        found = _SIP_URI.fullmatch(text)
        if found is None:
            raise _invalid(text, "a SIP URI is written as sip:user@host")
        if _DIGITS.fullmatch(_SEPARATORS.sub("", found[1])):  # a number in URI's clothes is a number
            self.number(found[1])
        return text

    def _e164(self, to: str, digits: str) -> str:
        rules = self.rules
        try:
            number = phonenumbers.parse(digits, rules.country)
        except phonenumbers.NumberParseException:
            raise _invalid(to, "write it as +49 30 1234567") from None
        code, national = number.country_code or 0, str(number.national_number)
        region = phonenumbers.region_code_for_country_code(code)
        if phonenumbers.connects_to_emergency_number(national, region):
            raise _forbidden(f"{digits} is an emergency number; agents never call those")
        e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        costly = _costly(number, code, national)
        if costly and not rules.allow_costly:
            raise _forbidden(f"{e164} is {costly}; this trunk does not call those")
        if not costly and not phonenumbers.is_valid_number(number):
            raise _invalid(to, "no such number is assigned; check its digits")
        if denied := next((prefix for prefix in rules.denied_prefixes if e164.startswith(prefix)), None):
            raise _denied(e164, denied)
        if not self._is_allowed(number, e164):
            allowed = ", ".join(rules.allowed_prefixes) or f"numbers of {rules.country}"
            raise _forbidden(f"{e164} may not be called over this trunk; allowed are: {allowed}")
        return e164

    def _is_allowed(self, number: phonenumbers.PhoneNumber, e164: str) -> bool:
        rules = self.rules
        if rules.allowed_prefixes:
            return e164.startswith(tuple(prefix for prefix in rules.allowed_prefixes if prefix.startswith("+")))
        own_code = phonenumbers.country_code_for_region(rules.country)
        region = phonenumbers.region_code_for_number(number)  # +1 is shared by many countries
        return number.country_code == own_code and region in (rules.country, None)


def _readings(digits: str) -> tuple[str, ...]:
    """What a PBX may dial for an extension: all its digits, or those after the one that asks for an outside line."""
    after = digits[1:]
    if digits.startswith(OUTSIDE_LINE) or (len(digits) > LONGEST_EXTENSION + 2 and after.startswith(("0", "1"))):
        return digits, after
    return (digits,)


def _costly(number: phonenumbers.PhoneNumber, code: int, national: str) -> str:
    if code in GLOBAL_SERVICES:
        return "a satellite or international service number"
    if national.startswith(SPECIAL.get(code, ("x",))):
        return "a special-rate number"
    return COSTLY.get(phonenumbers.number_type(number), "")


def _invalid(to: str, advice: str) -> NotAllowedError:
    return NotAllowedError(Reason.NUMBER_INVALID, f"'{printable(to)}' is not a telephone number: {advice}")


def _denied(number: str, prefix: str) -> NotAllowedError:
    return _forbidden(f"{number} begins with {prefix}, which this trunk may not call")


def _forbidden(sentence: str) -> NotAllowedError:
    return NotAllowedError(Reason.NUMBER_NOT_ALLOWED, sentence)
