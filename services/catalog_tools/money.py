"""Amounts of money: whole cents inside, decimal text ("4.35") outside; never a float."""

from __future__ import annotations

import re
from decimal import Decimal

MOST_CENTS = 100_000_000  # a million euros a piece: above it, somebody mistyped
_CURRENCY = re.compile(r"(?:€|EUR)\s*(?P<after>.*)|(?P<before>.*?)\s*(?:€|EUR)", re.IGNORECASE)
_AMOUNT = re.compile(r"[0-9]{1,3}(?:[.,][0-9]{3})+[.,][0-9]{2}|[0-9]+(?:[.,][0-9]{1,2})?")  # "1.234" may be either


class AmountError(ValueError):
    """A text that is not an amount."""


def cents(text: str) -> int:
    """Cents of "4.35", "4,35", "1.234,50", "4,35 €" or "EUR 4.35".

    Raises:
        AmountError: it is none of these.
    """
    plain = text.strip()
    if marked := _CURRENCY.fullmatch(plain):  # before or after the amount; inside it, "4€35" could mean anything
        plain = marked["after"] or marked["before"] or ""
    if not _AMOUNT.fullmatch(plain):
        raise AmountError(f"{text.strip()!r} is not an amount")
    *thousands, last = re.split("[.,]", plain)
    number = Decimal(f"{''.join(thousands)}.{last}" if thousands else last)
    amount = int(number * 100)
    if amount > MOST_CENTS:
        raise AmountError(f"{text.strip()!r} is more than {euros(MOST_CENTS)}")
    return amount


def euros(amount_cents: int) -> str:
    """Decimal text of an amount, two places: "4.35"."""
    return f"{amount_cents // 100}.{amount_cents % 100:02d}"
