"""Quantities, amounts and article numbers as they are spoken on the phone, in German and English. Pure.

A speech model reads "101004" or "38,50" as it likes; these texts leave it no choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

Language = Literal["de", "en"]

_DE = [
    "null",
    "ein",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
_DE_TENS = ["x", "x", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_EN = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_EN_TENS = ["x", "x", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DIGITS: dict[Language, list[str]] = {"de": ["null", "eins", *_DE[2:10]], "en": _EN[:10]}
_UNITS_DE = {  # one, several
    "stück": ("ein Stück", "Stück"),
    "meter": ("ein Meter", "Meter"),
    "bund": ("ein Bund", "Bund"),
    "karton": ("ein Karton", "Kartons"),
    "rolle": ("eine Rolle", "Rollen"),
    "paket": ("ein Paket", "Pakete"),
    "packung": ("eine Packung", "Packungen"),
    "beutel": ("ein Beutel", "Beutel"),
    "set": ("ein Set", "Sets"),
    "paar": ("ein Paar", "Paar"),
}
_UNITS_EN = {
    "stück": ("one piece", "pieces"),
    "meter": ("one metre", "metres"),
    "bund": ("one bundle", "bundles"),
    "karton": ("one box", "boxes"),
    "rolle": ("one roll", "rolls"),
    "paket": ("one package", "packages"),
    "packung": ("one pack", "packs"),
    "beutel": ("one bag", "bags"),
    "set": ("one set", "sets"),
    "paar": ("one pair", "pairs"),
}


def number(value: int, language: Language = "de") -> str:
    """A whole number from 0 to 999,999 in words; larger ones as digits. German one is "eins"."""
    if not 0 <= value < 1_000_000:
        return str(value)
    if language == "en":
        return _english(value)
    words = _german(value)
    return words + "s" if value % 100 == 1 else words


def _german(value: int) -> str:
    """As it stands before a noun or another number: "ein", "hundertein"."""
    if value < 20:
        return _DE[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return f"{_DE[ones]}und{_DE_TENS[tens]}" if ones else _DE_TENS[tens]
    for size, name in (1000, "tausend"), (100, "hundert"):
        if value >= size:
            many, rest = divmod(value, size)
            return f"{_german(many)}{name}{_german(rest) if rest else ''}"
    raise AssertionError(value)


def _english(value: int) -> str:
    if value < 20:
        return _EN[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return f"{_EN_TENS[tens]}-{_EN[ones]}" if ones else _EN_TENS[tens]
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        return f"{_EN[hundreds]} hundred{f' and {_english(rest)}' if rest else ''}"
    thousands, rest = divmod(value, 1000)
    link = " and " if rest < 100 else " "
    return f"{_english(thousands)} thousand{f'{link}{_english(rest)}' if rest else ''}"


def quantity(count: int, unit: str, language: Language = "de") -> str:
    """ "zehn Stück", "eine Rolle"; a unit that is not known is said as it is."""
    one, several = (_UNITS_DE if language == "de" else _UNITS_EN).get(unit.strip().lower(), ("", unit.strip()))
    if count == 1 and one:
        return one
    words = _german(count) if language == "de" and 0 <= count < 1_000_000 else number(count, language)
    return f"{words} {several}".rstrip()


def amount(cents: int, language: Language = "de") -> str:
    """ "achtunddreißig Euro fünfzig", "one euro forty-five", "neunzig Cent"."""
    euros, rest = divmod(cents, 100)
    if language == "en":
        if not euros:
            return f"{_english(rest)} {'cent' if rest == 1 else 'cents'}"
        return f"{number(euros, 'en')} {'euro' if euros == 1 else 'euros'}{f' {_english(rest)}' if rest else ''}"
    if not euros:
        return f"{_german(rest)} Cent"
    words = _german(euros) if euros < 1_000_000 else str(euros)
    return f"{words} Euro{f' {number(rest)}' if rest else ''}"


def article(article_number: str, language: Language = "de") -> str:
    """An article number digit by digit, in groups with a pause between: "eins null eins, null null vier".

    Signs begin a group; of longer runs of digits groups of three are made, of four two and two.
    """
    groups = []
    for part in re.findall(r"[0-9]+|[A-Za-zÄÖÜäöüß]+", article_number):
        if not part[0].isdigit():
            groups.append(" ".join(part.upper()))
            continue
        size = 2 if len(part) == 4 else 3
        groups += [
            " ".join(_DIGITS[language][int(digit)] for digit in part[start : start + size])
            for start in range(0, len(part), size)
        ]
    return ", ".join(groups)


def basket(lines: Sequence[dict[str, Any]], total_cents: int, language: Language = "de") -> str:
    """The order read back in one sentence; empty when there is nothing in it."""
    if not lines:
        return ""
    items = [f"{quantity(line['quantity'], line['unit'], language)} {line['name']}" for line in lines]
    together, link = ("zusammen", " und ") if language == "de" else ("altogether", " and ")
    listed = items[0] if len(items) == 1 else ", ".join(items[:-1]) + link + items[-1]
    return f"{listed}, {together} {amount(total_cents, language)}."


def order_number(value: str, language: Language = "de") -> str:
    """The confirmation, with a number that can be written down."""
    spoken = article(value, language)
    return f"Ihre Bestellnummer ist {spoken}." if language == "de" else f"Your order number is {spoken}."
