"""Catalogues from CSV: both delimiters, German headers, errors by line, all or nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from services.catalog_tools.app import opened
from services.catalog_tools.importer import CatalogueError, import_csv, load_sample_if_empty, parse_csv
from services.catalog_tools.models import Product
from services.catalog_tools.money import MOST_CENTS, AmountError, cents, euros

HEADER = "article_number;name;type;price_eur;size;unit"


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    async with opened(f"sqlite:///{tmp_path / 'c.db'}") as sessions:
        yield sessions


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Product)) or 0


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4.35", 435),
        ("4,35", 435),
        ("4", 400),
        ("0,05 €", 5),
        ("1.234,50", 123450),
        ("1,234.50", 123450),
        ("4.5", 450),
        ("€ 4,35", 435),
        ("4,35€", 435),
        ("4,35 eur", 435),
        ("EUR 4", 400),
    ],
)
def test_amounts_are_read_as_people_write_them(text: str, amount: int) -> None:
    assert cents(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "-1",
        "1e3",
        "4.35.1",
        "٣",
        "1 000",
        "NaN",
        "99999999999",
        "1.234",
        "4€35",
        "4 EUR 35",
        "€",
        "€4€",
        "EUR",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(AmountError):
        cents(text)


def test_amounts_are_written_with_two_places() -> None:
    assert [euros(a) for a in (0, 5, 435, 123450, MOST_CENTS)] == ["0.00", "0.05", "4.35", "1234.50", "1000000.00"]


def test_errors_name_their_line() -> None:
    text = "\n".join(
        [
            HEADER,
            "1;Rohr;Rohr;1,00;22;Rohr",
            "2;Rohr;Rohr;abc",
            ";Rohr;Rohr;1",
            "",
            '4;"Rohr',
            'lang";Rohr;2',
            "1;Bogen;Bogen;1",
            "5;Bogen;Bogen",
        ]
    )
    articles, errors = parse_csv(text)
    assert errors == [
        "line 3: price 'abc' is not an amount",
        "line 4: article_number is missing",
        "line 8: article_number '1' stands in line 2 already",
        "line 9: price_eur is missing",
    ]
    assert [article.article_number for article in articles] == ["1", "4"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "line 1: missing column"),
        ("name\nRohr\n", "line 1: missing column article_number, type, price_eur"),
        (HEADER + "\n", "the catalogue has no products"),
    ],
)
def test_a_file_without_columns_or_products_is_refused(text: str, error: str) -> None:
    with pytest.raises(CatalogueError, match=error):
        parse_csv(text)


def test_a_file_full_of_errors_stops_early() -> None:
    _, errors = parse_csv("\n".join([HEADER, *["x;y;z;none"] * 1000]))
    assert len(errors) == 51


async def test_an_import_with_errors_leaves_the_old_catalogue(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions() as session:
        before = await count(session)
        report = await import_csv(session, f"{HEADER}\n1;Rohr;Rohr;1\n2;Rohr;Rohr;x\n")
        assert not report.ok
        assert await count(session) == before > 375


async def test_an_import_replaces_the_catalogue_and_the_sample_stays_away(
    sessions: async_sessionmaker[AsyncSession], tmp_path: Path
) -> None:
    file = tmp_path / "own.csv"
    file.write_bytes('\ufeffArtikelnummer,Bezeichnung,Typ,Preis\r\nA1,Dübel,Dübel,"1,50"\r\n'.encode())
    async with sessions() as session:
        assert (await import_csv(session, file)).imported == 1
        assert (await session.scalars(select(Product.price_cents))).all() == [150]
        assert await load_sample_if_empty(session) is None
        assert await count(session) == 1


async def test_a_file_that_is_not_utf8_is_refused_with_a_sentence(
    sessions: async_sessionmaker[AsyncSession], tmp_path: Path
) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes(f"{HEADER}\n1;Dübel;Dübel;1\n".encode("latin-1"))
    async with sessions() as session:
        [error] = (await import_csv(session, file)).errors
        assert error == "line 2: byte 0xfc is not UTF-8; save the file as 'CSV UTF-8' (Excel: Save as, CSV UTF-8)"


def test_cells_beyond_the_columns_are_an_error_by_line() -> None:
    _, errors = parse_csv('article_number,name,type,price_eur\n1,Bogen,Bogen,4,35\n2,Bogen,Bogen,"4,35",,\n')
    assert errors == [
        "line 2: '35' is in no column: 5 cells for 4 columns; a cell that contains the separator must be quoted:"
        ' "4,35"'
    ]


@pytest.mark.parametrize("name", ["Größe", "GRÖSSE", "groesse", "grösse", "Gro\u0308ße", "size"])
def test_a_columns_name_may_be_written_with_or_without_umlaut(name: str) -> None:
    [article], _ = parse_csv(f"Artikel-Nr.;Bezeichnung;Typ;Preis EUR;{name};;\n1;Rohr;Rohr;1,00;22;;\n")
    assert article.size == "22"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("article_number;name;type;price_eur;Preis", "line 1: 'Preis' is a second column for price_eur"),
        ("article_number;name;type;price_eur;Farbe", "line 1: unknown column 'Farbe'; accepted are article_number"),
        ("article_number;name;type;price_eur;Farbe", "size (Größe), material, unit (Einheit)"),
        ("article_number;name;type", "line 1: missing column price_eur; accepted are article_number"),
    ],
)
def test_unknown_and_repeated_columns_are_errors(header: str, error: str) -> None:
    with pytest.raises(CatalogueError) as refused:
        parse_csv(f"{header}\n1;Rohr;Rohr;1;2\n")
    assert error in str(refused.value)


def test_a_cell_below_a_column_without_a_name_is_an_error() -> None:
    _, errors = parse_csv("article_number;name;type;;price_eur\n1;Rohr;Rohr;rot;1\n2;Rohr;Rohr;;1\n")
    assert [error.partition(":")[0] for error in errors] == ["line 2"]


@pytest.mark.parametrize(
    ("numbers", "errors"),
    [
        (("10-1", "101"), ["line 3: article_number '101' sounds like '10-1' in line 2"]),
        (("a 7", "A7"), ["line 3: article_number 'A7' sounds like 'a 7' in line 2"]),
        (("Ä7", "Ö7", "A7"), []),
        (("7" * 65,), ["line 2: article_number has 65 characters; at most 64 are possible"]),
        (("--",), ["line 2: article_number '--' has neither letter nor digit"]),
    ],
)
def test_article_numbers_must_differ_when_they_are_said(numbers: tuple[str, ...], errors: list[str]) -> None:
    _, found = parse_csv("\n".join([HEADER, *(f"{number};Rohr;Rohr;1" for number in numbers)]))
    assert found == errors


def test_a_cell_that_no_message_could_hold_is_refused() -> None:
    _, errors = parse_csv(f"{HEADER}\n1;{'x' * 1001};Rohr;1\n")
    assert errors == ["line 2: name has 1001 characters; at most 1000 are possible"]
