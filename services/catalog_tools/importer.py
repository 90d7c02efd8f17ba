"""Read a catalogue from CSV: all of it, or nothing and every error by its line.

Columns by name in the first line, in any order, separated by `;` or `,`:
`article_number`, `name`, `type`, `price_eur` must be there; `size`, `material`, `unit` (default "Stück") and
`synonyms` (separated by `|`) may be. German names work too, see `HEADER_NAMES`. An import replaces the catalogue.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.catalog_tools.models import CatalogueImport, Product
from services.catalog_tools.money import AmountError, cents
from services.catalog_tools.search import Article

SAMPLE = Path(__file__).parent / "catalogue" / "sample.csv"
REQUIRED = ("article_number", "name", "type", "price_eur")
OPTIONAL = ("size", "material", "unit", "synonyms")
HEADER_NAMES = {
    "artikelnummer": "article_number",
    "bezeichnung": "name",
    "typ": "type",
    "größe": "size",
    "groesse": "size",
    "material": "material",
    "preis": "price_eur",
    "preis_eur": "price_eur",
    "price": "price_eur",
    "einheit": "unit",
    "synonyme": "synonyms",
} | {name: name for name in REQUIRED + OPTIONAL}
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
        return ImportReport(0, (f"the file is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",))
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


def parse_csv(text: str) -> tuple[list[Article], list[str]]:
    """Articles and errors ("line 17: price 'abc' is not an amount") of a CSV text.

    Raises:
        CatalogueError: the first line does not name the columns.
    """
    first, _, _ = text.partition("\n")
    reader = csv.reader(io.StringIO(text), delimiter=";" if first.count(";") >= first.count(",") else ",")
    columns = _columns(next(reader, []))
    articles: list[Article] = []
    errors: list[str] = []
    lines: dict[str, int] = {}
    for line, row in _lines(reader, errors):
        if len(errors) >= MOST_ERRORS:
            errors.append(f"more than {MOST_ERRORS} errors; the rest is left out")
            break
        if not any(cell.strip() for cell in row):
            continue
        try:
            article = _article(row, columns)
            if earlier := lines.get(article.article_number):
                raise ValueError(f"article_number {article.article_number!r} stands in line {earlier} already")
        except ValueError as error:
            errors.append(f"line {line}: {error}")
        else:
            lines[article.article_number] = line
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


def _columns(header: list[str]) -> dict[str, int]:
    columns = {HEADER_NAMES[n]: i for i, cell in enumerate(header) if (n := cell.strip().lower()) in HEADER_NAMES}
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CatalogueError(f"line 1: missing column {', '.join(missing)}; the first line must name the columns")
    return columns


def _article(row: list[str], columns: dict[str, int]) -> Article:
    cell = {name: row[i].strip() if i < len(row) else "" for name, i in columns.items()}
    for name in REQUIRED:
        if not cell[name]:
            raise ValueError(f"{name} is missing")
    if "\x00" in "".join(row):
        raise ValueError("there is a NUL character")
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
