"""`callbus calls`: what is going on, once, or as a table that stays (`--watch`)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from pydantic import ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.bus import bus_address, connected
from cli.commands import WAITING, live_calls
from cli.errors import CliError
from cli.queries import fit, local_time, print_json, print_table, table
from cli.settings import CliSettings
from libs.contracts import events as ev, subjects
from libs.contracts.heartbeat import CallEntry, GatewayHeartbeat, WorkerHeartbeat
from libs.contracts.wire import event_decoder

COLUMNS = ("call", "since", "phase", "caller", "callee", "agent", "worker", "epoch", "state", "last words")
TELLING = ("call.muted", "call.held", "call.recording", "caller.turn", "agent.turn")  # what KV `calls` does not hold
EXPENDABLE = ("epoch", "worker", "agent", "callee", "since", "caller", "state")  # on a terminal too narrow for all
ID_CHARACTERS = 6  # of the end: what commands take
LEAST_CHARACTERS = 8  # of a word that is cut: a phase can still be read
REFRESHES_PER_S = 4
SILENT_S = 1.0  # ten heartbeats
LISTED_EVERY_S = 5.0  # what the bucket's messages told is compared with what it holds
HINT = "`callbus accept CALL` lets a waiting call through to its agent, `callbus reject CALL` refuses it"


@dataclass(slots=True)
class Facts:
    """What events say of a call."""

    is_muted: bool = False
    is_held: bool = False
    is_recorded: bool = False
    last_words: str = ""

    def take(self, event: ev.Event) -> None:
        """One event of the call, in the order of time."""
        match event:
            case ev.CallMuted():
                self.is_muted = event.muted
            case ev.CallHeld():
                self.is_held = event.held
            case ev.CallRecording():
                self.is_recorded = event.state == "started"
            case ev.CallerTurn() if event.text:
                self.last_words = f"caller: {event.text}"
            case ev.AgentTurn() if event.heard_text or event.text:
                self.last_words = f"agent: {event.heard_text or event.text}"

    @property
    def state(self) -> str:
        """In words."""
        words = (("muted", self.is_muted), ("held", self.is_held), ("recorded", self.is_recorded))
        return ", ".join(word for word, on in words if on)


@dataclass(slots=True)
class Board:
    """All live calls, and who is alive; fed by messages, read by `rows` and `footer`. `now`: the event loop's clock."""

    entries: dict[str, CallEntry] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    workers: dict[str, tuple[float, WorkerHeartbeat]] = field(default_factory=dict)
    gateways: dict[str, tuple[float, GatewayHeartbeat]] = field(default_factory=dict)

    def listed(self, entries: Iterable[CallEntry]) -> None:
        """All that there are."""
        self.entries = {entry.call: entry for entry in entries}
        self.facts = {call: facts for call, facts in self.facts.items() if call in self.entries}

    def entry(self, call: str, data: bytes) -> None:
        """A call's line changed; empty: it is gone."""
        if not data:
            self.entries.pop(call, None)
            self.facts.pop(call, None)
            return
        try:
            self.entries[call] = CallEntry.model_validate_json(data)
        except ValidationError:
            return  # of something newer

    def event(self, event: ev.Event) -> None:
        """Something happened in a call."""
        if event.call in self.entries:
            self.facts.setdefault(event.call, Facts()).take(event)

    def heartbeat(self, subject: str, data: bytes, now: float) -> None:
        """Somebody is alive."""
        try:
            if subject.startswith(subjects.worker_heartbeat("x")[:-1]):
                worker = WorkerHeartbeat.model_validate_json(data)
                self.workers[worker.wk] = now, worker
            else:
                gateway = GatewayHeartbeat.model_validate_json(data)
                self.gateways[gateway.gw] = now, gateway
        except ValidationError:
            return

    def fitted(self, now: float | None, width: int) -> Table:
        """The table for a terminal of this width: words are cut, then ids told by their end, then columns left out."""
        rows = self.rows(now)
        left_out = -1
        while not fit(rows, width, LEAST_CHARACTERS) and left_out < len(EXPENDABLE):
            left_out += 1
            rows = self.rows(now, ID_CHARACTERS, EXPENDABLE[:left_out])
        return rows

    def rows(self, now: float | None = None, id_characters: int | None = None, without: Collection[str] = ()) -> Table:
        """The table. With `now` calls whose gateway is silent are marked."""
        columns = [column for column in COLUMNS if column not in without]
        rows = table(*columns)
        for entry in sorted(self.entries.values(), key=lambda one: (one.offered_at, one.call)):
            facts = self.facts.get(entry.call, Facts())
            phase = f"{entry.phase} (accept?)" if entry.phase == WAITING else entry.phase
            style = "bold yellow" if entry.phase == WAITING else None
            if now is not None and now - self.gateways.get(entry.gw, (0.0, None))[0] > SILENT_S:
                phase, style = f"{entry.phase} (gateway silent)", "dim"
            worker = entry.wk[-6:] if entry.wk else "none"
            since = local_time(entry.offered_at)[-5:]
            parties = (entry.caller, entry.callee, entry.agent)
            name = entry.call[-id_characters:] if id_characters else entry.call
            cells = (name, since, phase, *parties, worker, str(entry.epoch), facts.state, facts.last_words)
            told = dict(zip(COLUMNS, cells, strict=True))
            rows.add_row(*(told[column] for column in columns), style=style)
        return rows

    def footer(self, now: float) -> str:
        """Who is alive, and how full."""
        workers = [beat for at, beat in self.workers.values() if now - at <= SILENT_S and beat.capacity]
        gateways = [beat for at, beat in self.gateways.values() if now - at <= SILENT_S]
        room = f"{sum(beat.calls for beat in workers)} of {sum(beat.capacity for beat in workers)} calls"
        draining = sum(beat.draining for beat in workers) + sum(beat.draining for beat in gateways)
        return f"{len(gateways)} gateways, {len(workers)} workers, {room}" + (
            f", {draining} draining" if draining else ""
        )


async def list_calls(
    console: Console, settings: CliSettings, nats: str | None, as_json: bool, *, watch: bool = False
) -> None:
    """`callbus calls`: what is going on; calls that wait for a person stand out."""
    if watch and (as_json or not console.is_terminal):
        raise CliError("--watch needs a terminal: leave it out, or follow `callbus tap all --json`")
    async with connected(bus_address(nats, settings)) as client:
        if watch:
            return await _watch(client, console)
        board = Board()
        await _list(client, board)
    if as_json:
        return print_json([_document(entry, board.facts.get(entry.call, Facts())) for entry in board.entries.values()])
    if not board.entries:
        return console.print("no call is going on")
    print_table(console, board.fitted(None, console.width) if console.is_terminal else board.rows())
    if any(entry.phase == WAITING for entry in board.entries.values()):
        console.print(HINT)
    return None


def _document(entry: CallEntry, facts: Facts) -> dict[str, Any]:
    known = {"muted": facts.is_muted, "held": facts.is_held, "recording": facts.is_recorded}
    return entry.model_dump(mode="json") | known | {"last_words": facts.last_words}


async def _list(client: Client, board: Board) -> None:
    """What the bucket holds, and for calls that are new here what was last said of them."""
    board.listed(await live_calls(client))
    new = [entry for entry in board.entries.values() if entry.call not in board.facts]
    await asyncio.gather(*(_learn(client, board, entry) for entry in new))


async def _learn(client: Client, board: Board, entry: CallEntry) -> None:
    decoder, found = event_decoder(), []
    for kind in TELLING:
        try:
            last = await client.jetstream().get_last_msg(
                subjects.EVENTS_STREAM, subjects.event(entry.org, entry.call, kind)
            )
        except NotFoundError:
            continue
        event = decoder.decode(last.data or b"")
        if event is not None:
            found.append(event)
    board.facts.setdefault(entry.call, Facts())
    for event in sorted(found, key=lambda one: one.at):
        board.event(event)


async def _watch(client: Client, console: Console) -> None:
    """Until Ctrl-C."""
    board, loop, decoder = Board(), asyncio.get_running_loop(), event_decoder()
    prefix = f"$KV.{subjects.KV_CALLS}."

    async def changed(message: Msg) -> None:
        board.entry(message.subject.removeprefix(prefix), message.data)

    async def happened(message: Msg) -> None:
        event = decoder.decode(message.data)
        if event is not None:
            board.event(event)

    async def lives(message: Msg) -> None:
        board.heartbeat(message.subject, message.data, loop.time())

    for subject in (subjects.WORKER_HEARTBEATS, subjects.GATEWAY_HEARTBEATS):
        await client.subscribe(subject, cb=lives)
    await client.subscribe(f"{prefix}>", cb=changed)  # the bucket's own messages
    await client.subscribe(subjects.EVENTS_FILTER, cb=happened)
    began_at = loop.time()

    def shown() -> Group:
        now = loop.time()
        rows = board.fitted(now if now - began_at > SILENT_S else None, console.width)
        empty = [] if board.entries else [Text("no call is going on")]
        foot = f"{datetime.now(UTC).astimezone():%H:%M:%S}  {board.footer(now)}; Ctrl-C ends this"
        return Group(rows, *empty, Text(foot, style="dim"))

    with Live(get_renderable=shown, console=console, refresh_per_second=REFRESHES_PER_S, screen=False):
        while not client.is_closed:
            await _list(client, board)
            await asyncio.sleep(LISTED_EVERY_S)
    raise CliError("the bus went away")
