"""Read a catalogue from CSV: all of it, or nothing and every error by its line.

Columns by name in the first line, in any order, separated by `;` or `,`:
`article_number`, `name`, `type`, `price_eur` must be there; `size`, `material`, `unit` (default "Stück") and
`synonyms` (separated by `|`) may be. German names work too, see `ALIASES`. An import replaces the catalogue.

What could be a mistake is one: cells beyond the columns (`4,35` in a file separated by commas), columns unknown
or named twice, article numbers that sound the same (`10-1` and `101`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog_tools.models import CatalogueImport, Product
from services.catalog_tools.money import AmountError, cents
from services.catalog_tools.search import Article, plain_number
from services.catalog_tools.spoken import fold

SAMPLE = Path(__file__).parent / "catalogue" / "sample.csv"
REQUIRED = ("article_number", "name", "type", "price_eur")
OPTIONAL = ("size", "material", "unit", "synonyms")
ALIASES = {
    "Artikelnummer": "article_number",
    "Artikel-Nr.": "article_number",
    "Bezeichnung": "name",
    "Typ": "type",
    "Größe": "size",
    "Preis": "price_eur",
    "Preis EUR": "price_eur",
    "price": "price_eur",
    "Einheit": "unit",
    "Synonyme": "synonyms",
}
MOST_NUMBER_CHARACTERS = 64
MOST_CHARACTERS = 1000  # of any cell: a basket of 200 lines has to fit into one message
MOST_ERRORS = 50
ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did; with errors it did nothing."""

    imported: int
    errors: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether the catalogue was replaced."""
        return not self.errors


class CatalogueError(ValueError):
    """A CSV text without a usable first line."""


async def import_csv(session: AsyncSession, source: str | Path, *, name: str = "") -> ImportReport:
    """Replace the catalogue by that of a CSV text or file (UTF-8, a byte order mark is fine); commits.

    `name` says in the table of imports where it came from. Baskets and orders keep what they have.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        articles, errors = parse_csv(_text(source))
    except UnicodeDecodeError as error:
        return ImportReport(0, (not_utf8(error),))
    except CatalogueError as error:
        return ImportReport(0, (str(error),))
    if errors:
        return ImportReport(0, tuple(errors))
    rows = [_row(article, position) for position, article in enumerate(articles)]
    await session.execute(delete(Product))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        await session.execute(insert(Product), rows[start : start + ROWS_AT_ONCE])
    origin = name or (source.name if isinstance(source, Path) else "text")
    session.add(CatalogueImport(source=origin, products=len(rows), imported_at=datetime.now(UTC)))
    await session.commit()
    return ImportReport(len(rows))


async def load_sample_if_empty(session: AsyncSession) -> ImportReport | None:
    """Import the sample catalogue at the very first start; None when there is or was another."""
    if (await session.execute(select(CatalogueImport.id).limit(1))).first() is not None:
        return None
    return await import_csv(session, SAMPLE)


def _text(source: str | Path) -> str:
    return source.read_text(encoding="utf-8-sig") if isinstance(source, Path) else source.removeprefix("\ufeff")


def not_utf8(error: UnicodeDecodeError) -> str:
    """What to do about a file that is not UTF-8, which is what Excel's plain "CSV" makes."""
    line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
    return f"line {line}: byte 0x{byte:02x} is not UTF-8; save the file as 'CSV UTF-8' (Excel: Save as, CSV UTF-8)"


def parse_csv(text: str) -> tuple[list[Article], list[str]]:
    """Articles and errors ("line 17: price 'abc' is not an amount") of a CSV text.

    Raises:
        CatalogueError: the first line does not name the columns.
    """
    first, _, _ = text.partition("\n")
    reader = csv.reader(io.StringIO(text), delimiter=";" if first.count(";") >= first.count(",") else ",")
    header = next(reader, [])
    columns = _columns(header)
    articles: list[Article] = []
    errors: list[str] = []
    numbers: dict[str, tuple[str, int]] = {}
    for line, row in _lines(reader, errors):
        if len(errors) >= MOST_ERRORS:
            errors.append(f"more than {MOST_ERRORS} errors; the rest is left out")
            break
        if not any(cell.strip() for cell in row):
            continue
        try:
            _no_more_cells(row, header)
            article = _article(row, columns)
            _no_other(article.article_number, numbers)
        except ValueError as error:
            errors.append(f"line {line}: {error}")
        else:
            numbers[plain_number(article.article_number)] = (article.article_number, line)
            articles.append(article)
    if not articles and not errors:
        raise CatalogueError("the catalogue has no products")
    return articles, errors


def _lines(reader: Iterator[list[str]], errors: list[str]) -> Iterator[tuple[int, list[str]]]:
    line = 1
    while True:
        line = getattr(reader, "line_num", line) + 1  # where the row begins: a quoted cell may span lines
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            errors.append(f"line {line}: {error}")
            return
        yield line, row


def _key(name: str) -> str:
    """A column's name without case, umlauts, spaces and signs: "Größe", "groesse" and "GRÖSSE" are one."""
    return re.sub("[^a-z0-9]", "", fold(name))


COLUMNS = {_key(name): column for name, column in ({name: name for name in REQUIRED + OPTIONAL} | ALIASES).items()}


def _columns(header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for i, cell in enumerate(header):
        name = cell.strip()
        column = COLUMNS.get(_key(name))
        if column is None and name:
            raise CatalogueError(f"line 1: unknown column {name!r}; {_accepted()}")
        if column in columns:
            raise CatalogueError(f"line 1: {name!r} is a second column for {column}; each may be there once")
        if column is not None:
            columns[column] = i
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CatalogueError(f"line 1: missing column {', '.join(missing)}; {_accepted()}")
    return columns


def _accepted() -> str:
    names = [
        f"{column} ({', '.join(alias for alias, of in ALIASES.items() if of == column)})"
        for column in REQUIRED + OPTIONAL
    ]
    return f"accepted are {', '.join(names).replace(' ()', '')}"


def _no_more_cells(row: list[str], header: list[str]) -> None:
    """Cells without a column would be lost, or have pushed others into the wrong one.

    Raises:
        ValueError: there are some.
    """
    stray = [cell for i, cell in enumerate(row) if cell.strip() and (i >= len(header) or not header[i].strip())]
    if stray:
        count = sum(1 for name in header if name.strip())
        raise ValueError(
            f"{stray[0].strip()!r} is in no column: {len(row)} cells for {count} columns;"
            ' a cell that contains the separator must be quoted: "4,35"'
        )


def _no_other(number: str, numbers: dict[str, tuple[str, int]]) -> None:
    """Article numbers are said without their signs, so they must differ in letters or digits.

    Raises:
        ValueError: another one is the same.
    """
    earlier, line = numbers.get(plain_number(number), (None, 0))
    if earlier == number:
        raise ValueError(f"article_number {number!r} stands in line {line} already")
    if earlier is not None:
        raise ValueError(f"article_number {number!r} sounds like {earlier!r} in line {line}")


def _article(row: list[str], columns: dict[str, int]) -> Article:
    cell = {name: row[i].strip() if i < len(row) else "" for name, i in columns.items()}
    for name in REQUIRED:
        if not cell[name]:
            raise ValueError(f"{name} is missing")
    if "\x00" in "".join(row):
        raise ValueError("there is a NUL character")
    for name, content in cell.items():
        most = MOST_NUMBER_CHARACTERS if name == "article_number" else MOST_CHARACTERS
        if len(content) > most:
            raise ValueError(f"{name} has {len(content)} characters; at most {most} are possible")
    if not plain_number(cell["article_number"]):
        raise ValueError(f"article_number {cell['article_number']!r} has neither letter nor digit")
    try:
        price_cents = cents(cell["price_eur"])
    except AmountError as error:
        raise ValueError(f"price {error}") from None
    return Article(
        article_number=cell["article_number"],
        name=cell["name"],
        type=cell["type"],
        size=cell.get("size", ""),
        material=cell.get("material", ""),
        price_cents=price_cents,
        unit=cell.get("unit") or "Stück",
        synonyms=cell.get("synonyms", ""),
    )


def _row(article: Article, position: int) -> dict[str, str | int]:
    return {
        "article_number": article.article_number,
        "position": position,
        "name": article.name,
        "type": article.type,
        "size": article.size,
        "material": article.material,
        "price_cents": article.price_cents,
        "unit": article.unit,
        "synonyms": article.synonyms,
    }
