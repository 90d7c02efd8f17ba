"""What is said on the phone: quantities, amounts and article numbers in words."""

from __future__ import annotations

import pytest

from services.catalog_tools import wording


@pytest.mark.parametrize(
    ("value", "german", "english"),
    [
        (0, "null", "zero"),
        (1, "eins", "one"),
        (12, "zwölf", "twelve"),
        (16, "sechzehn", "sixteen"),
        (21, "einundzwanzig", "twenty-one"),
        (30, "dreißig", "thirty"),
        (77, "siebenundsiebzig", "seventy-seven"),
        (100, "einhundert", "one hundred"),
        (101, "einhunderteins", "one hundred and one"),
        (217, "zweihundertsiebzehn", "two hundred and seventeen"),
        (1000, "eintausend", "one thousand"),
        (1001, "eintausendeins", "one thousand and one"),
        (1200, "eintausendzweihundert", "one thousand two hundred"),
        (21_345, "einundzwanzigtausenddreihundertfünfundvierzig", "twenty-one thousand three hundred and forty-five"),
        (2_000_000, "2000000", "2000000"),
    ],
)
def test_numbers(value, german, english):
    assert wording.number(value) == german
    assert wording.number(value, "en") == english


def test_every_number_of_a_small_order_is_said_differently():
    for language in ("de", "en"):
        said = [wording.number(value, language) for value in range(2000)]
        assert len(set(said)) == 2000
        assert not any("x" in word.split("-") for words in said for word in words.split())


@pytest.mark.parametrize(
    ("count", "unit", "german", "english"),
    [
        (10, "Stück", "zehn Stück", "ten pieces"),
        (1, "Stück", "ein Stück", "one piece"),
        (1, "Rolle", "eine Rolle", "one roll"),
        (3, "Karton", "drei Kartons", "three boxes"),
        (25, "Meter", "fünfundzwanzig Meter", "twenty-five metres"),
        (101, "Bund", "einhundertein Bund", "one hundred and one bundles"),
        (2, "Palette", "zwei Palette", "two Palette"),
    ],
)
def test_quantities(count, unit, german, english):
    assert wording.quantity(count, unit) == german
    assert wording.quantity(count, unit, "en") == english


@pytest.mark.parametrize(
    ("cents", "german", "english"),
    [
        (3850, "achtunddreißig Euro fünfzig", "thirty-eight euros fifty"),
        (145, "ein Euro fünfundvierzig", "one euro forty-five"),
        (90, "neunzig Cent", "ninety cents"),
        (1, "ein Cent", "one cent"),
        (101, "ein Euro eins", "one euro one"),
        (120_000, "eintausendzweihundert Euro", "one thousand two hundred euros"),
        (0, "null Cent", "zero cents"),
    ],
)
def test_amounts(cents, german, english):
    assert wording.amount(cents) == german
    assert wording.amount(cents, "en") == english


@pytest.mark.parametrize(
    ("number", "german"),
    [
        ("101004", "eins null eins, null null vier"),
        ("4711-08", "vier sieben, eins eins, null acht"),
        ("KU-22", "K U, zwei zwei"),
        ("1234567", "eins zwei drei, vier fünf sechs, sieben"),
        ("", ""),
    ],
)
def test_article_numbers_are_read_in_groups(number, german):
    assert wording.article(number) == german
    assert len(wording.article(number, "en").split(", ")) == len(german.split(", "))


def test_a_basket_is_one_sentence():
    lines = [
        {"quantity": 10, "unit": "Stück", "name": "T-Stück 22 mm"},
        {"quantity": 1, "unit": "Rolle", "name": "Kupferrohr 15 mm"},
    ]
    assert wording.basket(lines, 5120) == (
        "zehn Stück T-Stück 22 mm und eine Rolle Kupferrohr 15 mm, zusammen einundfünfzig Euro zwanzig."
    )
    assert wording.basket([], 0) == ""
