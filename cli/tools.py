"""`callbus messages`, `callbus customers import`, `callbus plugin run|list`: what belongs to agents' tools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.bus import bus_address, connected, query
from cli.errors import CliError
from cli.invocation import CALLS, CONFIGURATION, OPERATION, Json, Nats, console, run, settings

tools_app = typer.Typer(no_args_is_help=True)
customers_app = typer.Typer(no_args_is_help=True, help="Who may call, for the tool customer_lookup.")
plugin_app = typer.Typer(no_args_is_help=True, help="Tools written as plug-ins (docs/plugins.md).")
tools_app.add_typer(customers_app, name="customers", rich_help_panel=CONFIGURATION)
tools_app.add_typer(plugin_app, name="plugin", rich_help_panel=OPERATION)


@tools_app.command(rich_help_panel=CALLS, epilog="Examples: callbus messages · callbus messages --limit 5 --json")
def messages(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first")] = 50,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the messages that agents took."""
    run(_list_messages(bus, limit, as_json))


async def _list_messages(bus: str | None, limit: int, as_json: bool) -> None:
    from cli.queries import CATALOG_TOOLS, local_time, print_json, print_table, table

    async with connected(bus_address(bus, settings())) as client:
        found = (await query(client, CATALOG_TOOLS, "messages", limit=limit))["messages"]
    if as_json:
        print_json(found)
        return
    if not found:
        console.print("no message is stored yet")
        return
    rows = table("#", "taken", "for", "from", "number", "message")
    for message in found:
        who = (message["recipient"], message["name"], message["number"])
        rows.add_row(str(message["id"]), local_time(message["taken_at"]), *who, message["text"])
    print_table(console, rows)


@customers_app.command("import", epilog="Example: callbus customers import customers.csv")
def import_customers(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: phone, name, customer_number, company, note")
    ],
    org: Annotated[str, typer.Option(help="Organisation whose customers they are")] = "default",
    bus: Nats = None,
) -> None:
    """Replace the customers by a CSV file; mistakes are named by line, then nothing changes."""
    run(_import_customers(bus, file, org))


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read as UTF-8: {error}") from error


async def _import_customers(bus: str | None, file: Path, org: str) -> None:
    from cli.queries import CATALOG_TOOLS

    text = _text(file)
    async with connected(bus_address(bus, settings())) as client:
        try:
            report = await query(client, CATALOG_TOOLS, "import_customers", org=org, csv=text)
        except CliError as error:
            raise CliError(f"{file}: {error}") from error
    if report["errors"]:
        raise CliError("\n".join(f"{file}: {error}" for error in report["errors"]) + "\nnothing was changed")
    console.print(f"{report['imported']} customers imported from {file}")


@plugin_app.command("run", epilog="Examples: callbus plugin run my_shop:StockLevel · callbus plugin run '*'")
def run_plugins(
    names: Annotated[list[str], typer.Argument(help="MODULE:CLASS, or names of installed plug-ins; * for all")],
    bus: Nats = None,
) -> None:
    """Serve plug-ins as a process of their own, until Ctrl-C."""
    from libs.plugins.__main__ import serve

    sys.path.insert(0, "")  # a module beside, as with python -m
    raise typer.Exit(serve(names, bus_address(bus, settings())))


@plugin_app.command("list", epilog="Example: callbus plugin list")
def list_plugins(as_json: Json = False) -> None:
    """List the plug-ins of installed packages, as models are told of them."""
    from cli.queries import print_json, print_table, table
    from libs.plugins.loading import load

    loaded = load(["*"])
    if as_json:
        print_json([plugin.describe().model_dump(mode="json") for plugin in loaded.plugins])
        return
    rows = table("name", "description")
    for plugin in loaded.plugins:
        rows.add_row(plugin.name, plugin.description)
    for problem in loaded.problems:
        console.print(problem)
    if not loaded.plugins:
        console.print("no package with plug-ins is installed (entry points callbus.plugins)")
        return
    print_table(console, rows)
