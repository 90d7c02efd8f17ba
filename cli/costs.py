"""`callbus costs`: what calls would cost with each backend, and what organisations spent today."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from rich.console import Console

from cli.bus import bus_address, connected, keys_of
from cli.errors import CliError
from cli.estimate import Assumptions, Estimate, estimates
from cli.queries import print_json, print_table, table
from cli.settings import CliSettings
from libs.contracts import subjects
from libs.contracts.config import OrgConfig
from libs.contracts.spending import Spendings
from libs.contracts.wire import config_decoder
from libs.runtime.spending_copy import today
from services.ai_session.costs import Models, ModelsFileError, load

PARTS = ("model", "transcription", "speech", "session")


def load_models(path: Path) -> Models:
    """The model table.

    Raises:
        CliError: it cannot be read.
    """
    try:
        return load(path)
    except ModelsFileError as error:
        raise CliError(str(error)) from None


def compare(console: Console, models: Models, calls: int, given: Assumptions, only: str | None, as_json: bool) -> None:
    """Print what `calls` calls of that kind would cost with each backend, the cheapest of the known ones first.

    Raises:
        CliError: `only` is no model of the table.
    """
    if only is not None and only not in models.models:
        raise CliError(f"{only} is not in the model table: name one of it, or add it to the file of MODELS_FILE")
    found = sorted(estimates(models, given, only), key=lambda one: (one.per_call is None, one.known))
    if not found:
        raise CliError(f"{only} is a model for transcription alone: choose one that answers or speaks")
    if as_json:
        return print_json(
            {"calls": calls, "assumptions": asdict(given), "estimates": [_document(one, calls) for one in found]}
        )
    rows = table("backend", "model", "voice", *PARTS, "call $", "minute $", f"{calls} calls $")
    for one in found:
        parts = [_money(one.parts[part], 4) if part in one.parts else "" for part in PARTS]
        sums = [_sum(one, 1, 4), _sum(one, 1 / given.minutes, 4), _sum(one, calls, 2)]
        rows.add_row(one.backend, one.model, one.voice, *parts, *sums)
    print_table(console, rows)
    for line in _notes(models, found, given):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    return None


def _document(one: Estimate, calls: int) -> dict[str, Any]:
    total = None if one.per_call is None else one.per_call * calls
    return {
        "backend": one.backend,
        "model": one.model,
        "voice": one.voice,
        "parts_usd": one.parts,
        "known_usd_per_call": one.known,
        "usd_per_call": one.per_call,
        "usd": total,
    }


def _money(usd: float | None, places: int) -> str:
    return "unknown" if usd is None else f"{usd:.{places}f}"


def _sum(one: Estimate, times: float, places: int) -> str:
    """What is known of an unknown sum is its least."""
    return f"{'> ' if one.per_call is None else ''}{one.known * times:.{places}f}"


def _notes(models: Models, found: list[Estimate], given: Assumptions) -> list[str]:
    used = sorted({name for one in found for name in one.models})
    notes = [
        f"Assumed: {given.minutes:g} min a call, the agent speaks {given.agent_share:.0%} and the caller "
        f"{given.caller_share:.0%} of it, {given.turns_per_minute:g} turns and {given.tools_per_minute:g} tool calls a "
        f"minute, instructions of {given.instruction_tokens} tokens, the conversation re-sent with each answer, "
        f"{given.cached_share:.0%} of what was sent before at the cached price; no telephony.",
    ]
    if any(one.per_call is None for one in found):
        notes.append("unknown: models.toml has no price; put yours into a copy of it and name that in MODELS_FILE.")
    if guessed := [name for name in used if models.get(name).price_source == "third_party"]:
        notes.append(f"Not from the vendor's own page: the prices of {', '.join(guessed)}.")
    ending = [f"{name} ({model.shutdown})" for name in used if (model := models.get(name)).shutdown is not None]
    if ending:
        notes.append(f"Will be shut down: {', '.join(ending)}.")
    return notes


# -- today ---------------------------------------------------------------------------------------------------------


async def spent_today(client: Client) -> list[dict[str, Any]]:
    """Per organisation: spent today (UTC) and its budget, if it has one."""
    spendings, day = Spendings(), today()
    js = client.jetstream()
    try:
        store = await js.key_value(subjects.KV_SPEND)
    except BucketNotFoundError:
        store = None
    if store is not None:
        for key in await keys_of(client, subjects.KV_SPEND):
            try:
                spendings.take(key, (await store.get(key)).value)
            except KeyNotFoundError:
                continue  # it grew old in between
    limits = await _budgets(client)
    spent = spendings.of_day(day)
    return [
        {"org": org, "day": day.isoformat(), "usd": round(spent.get(org, 0.0), 6), "max_usd_per_day": limits.get(org)}
        for org in sorted({*spent, *(org for org, limit in limits.items() if limit is not None)})
    ]


async def _budgets(client: Client) -> dict[str, float | None]:
    decoder, found = config_decoder(), {}
    keys = [key for key in await keys_of(client, subjects.KV_CONFIG) if key.startswith("org.")]
    if not keys:
        return {}
    store = await client.jetstream().key_value(subjects.KV_CONFIG)
    for key in keys:
        try:
            document = decoder.decode((await store.get(key)).value or b"")
        except KeyNotFoundError:
            continue
        if isinstance(document, OrgConfig):
            found[document.name] = document.max_usd_per_day
    return found


async def print_today(console: Console, settings: CliSettings, nats: str | None, as_json: bool) -> None:
    """`callbus costs --today`."""
    async with connected(bus_address(nats, settings)) as client:
        found = await spent_today(client)
    if as_json:
        return print_json(found)
    if not found:
        return console.print("nothing was spent today (UTC)")
    rows = table("organisation", "spent $", "budget $", "left $")
    for one in found:
        limit = one["max_usd_per_day"]
        left = "" if limit is None else f"{max(0.0, limit - one['usd']):.2f}"
        rows.add_row(one["org"], f"{one['usd']:.4f}", "none" if limit is None else f"{limit:.2f}", left)
    return print_table(console, rows)
