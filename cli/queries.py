"""The commands that ask a running callbus: calls, tap, conversations, show, orders, apply, catalog."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NoKeysError
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cli.apply import apply, read_config
from cli.bus import bus_address, connected, query
from cli.errors import CliError
from cli.render import EventLines
from cli.settings import CliSettings
from cli.show import print_conversation
from cli.tap import ALL, call_meant, events
from libs.contracts import subjects
from libs.contracts.events import CallEnded
from libs.contracts.heartbeat import CallEntry
from libs.contracts.wire import event_decoder

CATALOG_TOOLS = "catalog_tools"
TRANSCRIPT_STORE = "transcript_store"


def print_json(value: Any) -> None:
    """For programs: one document on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


_WHOLE = {"call", "order", "began", "placed", "article"}  # ids are copied, so they are never cut


def table(*columns: str) -> Table:
    """A plain table; the console wraps what does not fit."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        width = 26 if column == "call" else None
        made.add_column(column, no_wrap=column in _WHOLE, min_width=width, overflow="fold")
    return made


def local_time(iso: str | None) -> str:
    """A stored time as people here read it; empty when there is none."""
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M}" if iso else ""


async def apply_files(console: Console, settings: CliSettings, nats: str | None, paths: list[Path], dry: bool) -> None:
    """`callbus apply`."""
    reading = read_config(paths)
    async with connected(bus_address(nats, settings)) as client:
        done = await apply(client, reading, dry_run=dry)
    for one in done:
        console.print(f"{one.verdict:9}  {one.kind} {one.name}")
    if dry:
        console.print("nothing was published (--dry-run)")


async def list_calls(console: Console, settings: CliSettings, nats: str | None, as_json: bool) -> None:
    """`callbus calls`: the gateway's copy in KV `calls`."""
    entries: list[CallEntry] = []
    async with connected(bus_address(nats, settings)) as client:
        try:
            store = await client.jetstream().key_value(subjects.KV_CALLS)
            keys = await store.keys()
        except (BucketNotFoundError, NoKeysError):
            keys = []
        for key in sorted(keys):
            try:
                entries.append(CallEntry.model_validate_json((await store.get(key)).value or b""))
            except (KeyNotFoundError, ValidationError):
                continue  # it ended in between
    if as_json:
        return print_json([entry.model_dump(mode="json") for entry in entries])
    if not entries:
        return console.print("no call is going on")
    rows = table("call", "since", "phase", "caller", "agent", "worker", "epoch")
    for entry in entries:
        worker = entry.wk[-6:] if entry.wk else "none"
        since = local_time(entry.offered_at)[-5:]
        rows.add_row(entry.call, since, entry.phase, entry.caller, entry.agent, worker, str(entry.epoch))
    return console.print(rows)


async def follow(
    console: Console, settings: CliSettings, nats: str | None, wanted: str, *, verbose: bool, as_json: bool
) -> None:
    """`callbus tap`: ends with the call; never for `all`."""
    decoder, lines = event_decoder(), EventLines(show_call=wanted == ALL, verbose=verbose)
    async with connected(bus_address(nats, settings)) as client:
        call = wanted if wanted == ALL else await call_meant(client, wanted)
        if call == ALL and not as_json:
            console.print("waiting for calls; Ctrl-C ends this", style="dim")
        async for message in events(client, call):
            event = decoder.decode(message.data)
            if as_json:
                sys.stdout.write(message.data.decode("utf-8", "replace") + "\n")
                sys.stdout.flush()
            elif event is not None and (line := lines.line(event)) is not None:
                console.print(line, soft_wrap=True)
            if isinstance(event, CallEnded) and call != ALL:
                return


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
    return console.print(rows)


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
    console: Console, settings: CliSettings, nats: str | None, call: str, as_json: bool
) -> None:
    """`callbus show`."""
    async with connected(bus_address(nats, settings)) as client:
        found = await query(client, TRANSCRIPT_STORE, "get", call=call)
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
    return console.print(rows)


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
        if len(text.encode()) > client.max_payload - 4096:
            raise CliError(f"{file} is larger than the bus takes in one message ({client.max_payload} bytes)")
        report = await query(client, CATALOG_TOOLS, "import", csv=text, name=file.name)
    if report["errors"]:
        raise CliError("\n".join(f"{file}: {error}" for error in report["errors"]) + "\nnothing was changed")
    console.print(f"{report['imported']} products imported from {file}")


def _csv_text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read as UTF-8: {error}") from error
