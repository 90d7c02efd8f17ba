"""One demo call on any running callbus, from the first ring to its checklist."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from rich.console import Console
from rich.text import Text

from cli.bus import query
from cli.demo.call_log import CallLog
from cli.demo.caller import Caller, Clip
from cli.demo.checks import Check, Evidence, conversation_checks
from cli.demo.recorded import recorded_turns
from cli.demo.script import ORDER, STEPS
from cli.errors import CliError
from cli.queries import CATALOG_TOOLS, TRANSCRIPT_STORE
from cli.show import print_conversation
from libs.audio.wav import write_wav
from libs.contracts.agent import Backend
from libs.contracts.events import AgentTurn

STORED_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the call goes on this machine (a UDP port), and where the model's own records are read."""

    sip_port: int
    rehearsal_url: str
    backend: Backend = "realtime"


async def converse(
    client: Client,
    place: Place,
    log: CallLog,
    clips: dict[str, Clip],
    trouble: Callable[[], Awaitable[None]] | None = None,
    heard_file: Path | None = None,  # a WAV file of what the caller heard
) -> list[Check]:
    """Place the call, follow the script, and judge what was stored and heard. `log` is following the bus already.

    Raises:
        CliError: there was no call to judge.
    """
    heard = await Caller(log, clips, trouble).run(place.sip_port)
    if heard_file is not None:
        await asyncio.to_thread(heard_file.write_bytes, write_wav(heard, 8000))
    call = log.events[-1].call
    conversation = await _stored(client, call)
    orders = (await query(client, CATALOG_TOOLS, "orders", limit=10, call=call))["orders"]
    turns = [event for event in log.events if isinstance(event, AgentTurn) and event.heard_ms]
    items = await recorded_turns(place.rehearsal_url, place.backend, turns)
    _show(log.console, conversation, orders)
    evidence = Evidence(log.events, conversation, orders, heard, items)
    return conversation_checks(evidence, [clips[step.clip].text for step in STEPS], ORDER)


def verdict(console: Console, checks: list[Check]) -> bool:
    """Print the checklist; whether everything on it holds."""
    console.rule("checked", align="left")
    for check in checks:
        mark = ("✔", "green") if check.passed else ("✘", "red")
        detail = (f"  {check.detail}" if check.detail else "", "dim")
        console.print(Text.assemble(" ", mark, f" {check.text}", detail), soft_wrap=True)
    passed = all(check.passed for check in checks)
    console.print("everything holds" if passed else "not everything holds", style="bold")
    return passed


async def _stored(client: Client, call: str) -> dict[str, Any]:
    """The conversation, once the store has closed it."""
    loop = asyncio.get_running_loop()
    deadline_at = loop.time() + STORED_TIMEOUT_S
    while True:
        try:
            found: dict[str, Any] = await query(client, TRANSCRIPT_STORE, "get", call=call)
            if found["conversation"]["ended_at"] or loop.time() > deadline_at:
                return found
        except CliError:  # not there yet
            if loop.time() > deadline_at:
                raise
        await asyncio.sleep(0.2)


def _show(console: Console, conversation: dict[str, Any], orders: list[dict[str, Any]]) -> None:
    console.rule("stored conversation", align="left")
    print_conversation(console, conversation)
    for order in orders:
        console.rule(f"stored order {order['number']}", align="left")
        for line in order["lines"]:
            amount = f"{line['quantity']:4} × {line['article_number']}  {line['name']}"
            console.print(f"{amount:60} {line['line_total_eur']:>9} €")
        console.print(f"{'':60} {order['total_eur']:>9} €", style="bold")
