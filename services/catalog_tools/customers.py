"""Customers by the number they call from: the table, its import from CSV, and the CRM that may be asked instead.

Columns of the CSV by name, in any order, separated by `;` or `,`: `phone` and `name` must be there, `customer_number`,
`company` and `note` may be; German names work too. An import replaces the organisation's customers, all or nothing.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any
from urllib.parse import quote

import aiohttp
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncSession

from libs.call_leg.numbers import normalise
from services.catalog_tools.http_tool import problem_of
from services.catalog_tools.importer import MOST_CHARACTERS, MOST_ERRORS, CatalogueError, ImportReport
from services.catalog_tools.models import Customer
from services.catalog_tools.spoken import fold

COLUMNS = {
    "phone": "phone",
    "telefon": "phone",
    "telefonnummer": "phone",
    "rufnummer": "phone",
    "name": "name",
    "ansprechpartner": "name",
    "customernumber": "customer_number",
    "kundennummer": "customer_number",
    "kundennr": "customer_number",
    "company": "company",
    "firma": "company",
    "note": "note",
    "notiz": "note",
    "bemerkung": "note",
}
REQUIRED = ("phone", "name")
OPTIONAL = ("customer_number", "company", "note")
TOLD = ("name", "company", "customer_number", "note")
MOST_CRM_BYTES = 65_536


class CrmError(RuntimeError):
    """The CRM did not tell whether it knows the number."""


class Crm:
    """A CRM that tells of a customer by number: `GET url`, where `{number}` is E.164; 404: unknown.

    `{org}` is the agent's organisation: where several share the platform, none may see the customers of another.

    The answer is a JSON object, or a list whose first entry counts; `name`, `company`, `customer_number`, `note` are
    passed on, and what else it holds if it is a text or a number.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._url, self._token, self._timeout_s = url, token, timeout_s

    async def find(self, org: str, number: str) -> dict[str, Any] | None:
        """The customer of an organisation with this number.

        Raises:
            CrmError: there was no usable answer.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        url = self._url.replace("{org}", quote(org, safe="")).replace("{number}", quote(number, safe=""))
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url, headers=headers) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise CrmError(f"HTTP status {response.status}")
                found = json.loads(await _bounded(response))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise CrmError(problem_of(error)) from None
        if isinstance(found, list):
            found = found[0] if found else None
        if not isinstance(found, dict):
            return None
        return {key: value for key, value in found.items() if isinstance(value, str | int | float | bool)} or None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, whether or not its length was told.

    Raises:
        CrmError: it is too large.
    """
    body = bytearray()
    async for part in response.content.iter_chunked(MOST_CRM_BYTES):
        body += part
        if len(body) > MOST_CRM_BYTES:
            raise CrmError("the answer is too large")
    return bytes(body)


async def find(session: AsyncSession, org: str, number: str) -> dict[str, Any] | None:
    """The customer with this number (E.164) in the table."""
    row = await session.get(Customer, (org, number))
    return None if row is None else {name: value for name in TOLD if (value := getattr(row, name))}


async def import_customers(session: AsyncSession, text: str, org: str, country: str) -> ImportReport:
    """Replace an organisation's customers by those of a CSV text; commits. Numbers become E.164 as of `country`."""
    try:
        rows, errors = parse(text, org, country)
    except CatalogueError as error:
        return ImportReport(0, (str(error),))
    if errors:
        return ImportReport(0, tuple(errors))
    await session.execute(delete(Customer).where(Customer.org == org))
    for start in range(0, len(rows), 500):
        await session.execute(insert(Customer), rows[start : start + 500])
    await session.commit()
    return ImportReport(len(rows))


def parse(text: str, org: str, country: str) -> tuple[list[dict[str, str]], list[str]]:
    """Rows and errors by line.

    Raises:
        CatalogueError: the first line does not name the columns.
    """
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if first.count(";") >= first.count(",") else ",")
    columns = _columns(next(reader, []))
    rows: dict[str, dict[str, str]] = {}
    errors: list[str] = []
    try:
        for cells in reader:
            if len(errors) >= MOST_ERRORS or not any(cell.strip() for cell in cells):
                continue
            row = {name: cells[i].strip() if i < len(cells) else "" for name, i in columns.items()}
            problem = _problem(row, rows, len(cells), len(columns), country)
            if problem:
                errors.append(f"line {reader.line_num}: {problem}")
            else:
                rows[row["phone"]] = {"org": org, **dict.fromkeys(OPTIONAL, ""), **row}
    except csv.Error as error:
        errors.append(f"line {reader.line_num}: {error}")
    if not rows and not errors:
        raise CatalogueError("the file has no customers")
    return list(rows.values()), errors


def _columns(header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for i, cell in enumerate(header):
        name = COLUMNS.get("".join(filter(str.isalnum, fold(cell))))
        if name is None or name in columns:
            accepted = ", ".join((*REQUIRED, *OPTIONAL))
            raise CatalogueError(f"line 1: column {cell.strip()!r} is unknown or there twice; accepted are {accepted}")
        columns[name] = i
    if missing := [name for name in REQUIRED if name not in columns]:
        raise CatalogueError(f"line 1: missing column {', '.join(missing)}")
    return columns


def _problem(row: dict[str, str], rows: dict[str, dict[str, str]], cells: int, columns: int, country: str) -> str:
    """What is wrong with a row; its number becomes E.164."""
    if cells > columns:
        return f"{cells} cells for {columns} columns; a cell that contains the separator must be quoted"
    if not row["name"]:
        return "name is empty"
    if any(len(cell) > MOST_CHARACTERS for cell in row.values()):
        return f"a cell has more than {MOST_CHARACTERS} characters"
    said, row["phone"] = row["phone"], normalise(row["phone"], country)
    if not row["phone"].startswith("+"):
        return f"phone {said!r} is no telephone number of {country}; write it with +49, say"
    return f"phone {said!r} is there twice" if row["phone"] in rows else ""
