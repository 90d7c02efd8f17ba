"""The commands that ask a running callbus: conversations, show, orders, apply, catalog."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from cli.apply import apply, read_config, tool_warnings
from cli.bus import bus_address, connected, query
from cli.config_files import Problem
from cli.consoles import PlainConsole
from cli.errors import CliError, NotRunning
from cli.exit_codes import ExitCode
from cli.settings import CliSettings
from cli.show import print_conversation
from cli.tap import LAST, require_name

CATALOG_TOOLS = "catalog_tools"
TRANSCRIPT_STORE = "transcript_store"


def print_json(value: Any) -> None:
    """For programs: one document on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


# Ids are copied and numbers compared, so that they are never cut.
_WHOLE = {
    "call",
    "epoch",
    "order",
    "began",
    "placed",
    "since",
    "article",
    "quantity",
    "talked",
    "cost $",
    "price €",
    "total €",
}
LEAST_CHARACTERS = 4
WIDEST = 10_000


def table(*columns: str) -> Table:
    """A plain table, one line per row."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ellipsis")
    return made


def print_table(console: Console, rows: Table) -> None:
    """On a terminal words (never ids) are cut until a row fits; a program (a pipe, a file) gets all of them."""
    if not console.is_terminal:
        return PlainConsole(file=console.file, width=WIDEST).print(rows)
    fit(rows, console.width)  # a terminal for half a row: ids stay whole, the row goes on in the next line
    return PlainConsole(file=console.file, width=WIDEST, force_terminal=True).print(rows)


def fit(rows: Table, width: int, least: int = LEAST_CHARACTERS) -> bool:
    """Cut words (never ids) down to `least` characters until a row has room in `width`; whether it has."""
    widths = [max(map(cell_len, (str(c.header), *map(str, c.cells)))) for c in rows.columns]
    may_cut = [i for i, column in enumerate(rows.columns) if column.header not in _WHOLE]
    while sum(widths) + len(widths) - 1 > width:
        widest = max(may_cut, key=widths.__getitem__)
        if widths[widest] <= least:
            break
        widths[widest] -= 1
    for column, cut in zip(rows.columns, widths, strict=True):
        column.width = cut
    return sum(widths) + len(widths) - 1 <= width


def local_time(iso: str | None) -> str:
    """A stored time as people here read it; empty when there is none."""
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M}" if iso else ""


async def apply_files(console: Console, settings: CliSettings, nats: str | None, paths: list[Path], dry: bool) -> None:
    """`callbus apply`: mistakes in the files are told without a bus; a dry run ends there when none runs."""
    reading = read_config(paths)
    _warn(console, reading.warnings)
    try:
        address = bus_address(nats, settings)
    except NotRunning:
        if not dry:
            raise
        return console.print(f"{len(reading.placed)} documents are valid; no callbus runs here to compare them with")
    async with connected(address) as client:
        done = await apply(client, reading, dry_run=dry)
        _warn(console, await tool_warnings(client, reading))
    for one in done:
        console.print(f"{one.verdict:9}  {one.kind} {one.name}")
    if dry:
        console.print("nothing was published (--dry-run)")
    return None


def _warn(console: Console, warnings: list[Problem]) -> None:
    for warning in sorted(set(warnings)):
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


async def list_conversations(
    console: Console, settings: CliSettings, nats: str | None, limit: int, as_json: bool
) -> None:
    """`callbus conversations`."""
    async with connected(bus_address(nats, settings)) as client:
        found = (await query(client, TRANSCRIPT_STORE, "list", limit=limit))["conversations"]
    if as_json:
        return print_json(found)
    if not found:
        return console.print("no conversation is stored yet")
    rows = table("call", "began", "caller", "agent", "outcome", "talked", "cost $")
    for one in found:
        rows.add_row(*(_cell(one, name) for name in _CONVERSATION_COLUMNS))
    return print_table(console, rows)


_CONVERSATION_COLUMNS = ("call", "began_at", "caller", "agent", "outcome", "talk_ms", "cost_usd")


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if name.endswith("_ms"):
        return f"{(value or 0) / 1000:.1f} s"
    if name.endswith("_usd"):
        return f"{value or 0:.4f}"
    if name.endswith("_at"):
        return local_time(value)
    return "" if value is None else str(value)


async def show_conversation(
    console: Console, settings: CliSettings, nats: str | None, call: str, as_json: bool, *, failed: bool = False
) -> None:
    """`callbus show`.

    Raises:
        CliError: there is no such call.
    """
    require_name(call)
    if failed and call != LAST:
        raise CliError("--failed looks for the last call that failed: leave the id out, or --failed", ExitCode.USAGE)
    async with connected(bus_address(nats, settings)) as client:
        found = await query(client, TRANSCRIPT_STORE, "get", call=call, failed=failed or None)
    if as_json:
        return print_json(found)
    return print_conversation(console, found)


async def list_orders(
    console: Console, settings: CliSettings, nats: str | None, limit: int, *, as_csv: bool, as_json: bool
) -> None:
    """`callbus orders`."""
    async with connected(bus_address(nats, settings)) as client:
        found = (await query(client, CATALOG_TOOLS, "orders", limit=limit))["orders"]
    if as_json:
        return print_json(found)
    if as_csv:
        return write_orders_csv(found)
    if not found:
        return console.print("no order is stored yet")
    rows = table("order", "placed", "article", "quantity", "name", "price €", "total €")
    for order in found:
        head = [str(order["number"]), local_time(order["placed_at"])]
        for line in order["lines"]:
            name = (line["article_number"], str(line["quantity"]), line["name"])
            rows.add_row(*head, *name, line["unit_price_eur"], line["line_total_eur"])
            head = ["", ""]
        rows.add_row("", "", "", "", "", "", order["total_eur"], style="bold")
    return print_table(console, rows)


ORDER_COLUMNS = ("number", "placed_at", "call", "caller", "customer")
LINE_COLUMNS = ("article_number", "name", "quantity", "unit", "unit_price_eur", "line_total_eur")


def write_orders_csv(orders: list[dict[str, Any]]) -> None:
    """One row per order line on standard output."""
    writer = csv.writer(sys.stdout)
    writer.writerow(ORDER_COLUMNS + LINE_COLUMNS)
    for order in orders:
        for line in order["lines"]:
            writer.writerow([order.get(name) for name in ORDER_COLUMNS] + [line.get(name) for name in LINE_COLUMNS])


async def import_catalog(console: Console, settings: CliSettings, nats: str | None, file: Path) -> None:
    """`callbus catalog import`.

    Raises:
        CliError: the file cannot be read, or has mistakes: one line each.
    """
    text = _csv_text(file)
    async with connected(bus_address(nats, settings)) as client:
        try:
            report = await query(client, CATALOG_TOOLS, "import", csv=text, name=file.name)
        except CliError as error:
            raise CliError(f"{file}: {error}") from error
    if report["errors"]:
        raise CliError("\n".join(f"{file}: {error}" for error in report["errors"]) + "\nnothing was changed")
    console.print(f"{report['imported']} products imported from {file}")


def _csv_text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read as UTF-8: {error}") from error
