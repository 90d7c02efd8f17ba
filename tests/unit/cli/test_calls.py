"""`callbus calls`: who talks with whom, how far, and what was said last; once, or as a table that stays."""

import asyncio
import io
import json

import pytest
from rich.console import Console

from cli.bus import connected
from cli.calls import COLUMNS, Board, list_calls
from cli.errors import CliError
from cli.settings import CliSettings
from libs.contracts import events as ev, examples, subjects
from libs.contracts.heartbeat import CallEntry, GatewayHeartbeat, WorkerHeartbeat
from libs.runtime.streams import bucket
from tests.support.nats import nats_server
from tests.unit.cli.fake_gateway import CALL, FakeGateway

SETTINGS = CliSettings(_env_file=None)
EVENTS = {type(event): event for event in examples.events()}


def shown(board: Board, now: float | None = None) -> str:
    output = io.StringIO()
    Console(file=output, width=240).print(board.rows(now))
    return output.getvalue()


async def test_a_call_is_listed_with_what_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        await gateway.entry()
        await gateway.publish(ev.CallMuted, muted=True)
        await gateway.publish(ev.CallRecording, state="started")
        await gateway.publish(ev.CallHeld, held=True, by="remote")
        await gateway.publish(ev.CallHeld, held=False, by="remote")
        await gateway.publish(ev.CallerTurn, item="i", text="Zehn T-Stücke.")
        await list_calls(Console(file=output, width=300), SETTINGS, server.url, False)
        await list_calls(Console(), SETTINGS, server.url, True)
    head, row = output.getvalue().splitlines()
    assert [column for column in COLUMNS if column not in head] == []
    for word in (CALL, "talking", "+4930111", "100", "bestellung", "wk-1", "muted, recorded", "caller: Zehn T-Stücke."):
        assert word in row
    (document,) = json.loads(capsys.readouterr().out)
    assert (document["muted"], document["held"], document["recording"]) == (True, False, True)
    assert document["last_words"] == "caller: Zehn T-Stücke."


async def test_the_table_follows_calls_that_come_and_go() -> None:
    output = io.StringIO()
    console = Console(file=output, width=240, force_terminal=True, color_system=None)
    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        gateway = await FakeGateway(client).start()
        table = asyncio.create_task(list_calls(console, SETTINGS, server.url, False, watch=True))
        await _until(output, "no call is going on")
        await gateway.entry()
        await _until(output, CALL)
        await gateway.publish(ev.AgentTurn, item="a", response="r", text="Gern, zehn.", heard_text="Gern, zehn.",
                              audio_ms=9, heard_ms=9)  # fmt: skip
        await _until(output, "agent: Gern, zehn.")
        beat = WorkerHeartbeat(wk="wk-1", calls=1, capacity=50)
        while "1 workers, 1 of 50 calls" not in output.getvalue():  # it counts for a second only
            await client.publish(subjects.worker_heartbeat("wk-1"), beat.to_json())
            await asyncio.sleep(0.1)
        await (await bucket(client.jetstream(), subjects.KV_CALLS)).delete(CALL)
        output.truncate(0)
        await _until(output, "no call is going on")
        table.cancel()
        with pytest.raises(asyncio.CancelledError):
            await table


async def _until(output: io.StringIO, text: str) -> None:
    while text not in output.getvalue():  # noqa: ASYNC110  what another writes
        await asyncio.sleep(0.02)


async def test_a_table_that_stays_needs_a_terminal() -> None:
    with pytest.raises(CliError, match="--watch needs a terminal"):
        await list_calls(Console(file=io.StringIO()), SETTINGS, "nats://127.0.0.1:1", False, watch=True)


def test_a_call_whose_gateway_is_silent_is_marked_and_who_is_silent_does_not_count() -> None:
    board = Board()
    entry = CallEntry(call=CALL, org="default", gw="gw-1", wk=None, epoch=1, phase="talking", agent="a")
    board.entry(CALL, entry.to_json())
    board.heartbeat(
        subjects.gateway_heartbeat("gw-1"), GatewayHeartbeat(gw="gw-1", calls=1, capacity=9).to_json(), 10.0
    )
    assert "gateway silent" not in shown(board, 10.5)
    assert board.footer(10.5) == "1 gateways, 0 workers, 0 of 0 calls"
    assert "gateway silent" in shown(board, 12.0)
    assert board.footer(12.0).startswith("0 gateways")
    board.entry(CALL, b"{")
    board.heartbeat(subjects.gateway_heartbeat("gw-1"), b"{", 13.0)
    assert CALL in shown(board)
    board.entry(CALL, b"")
    assert CALL not in shown(board)


async def test_a_narrow_terminal_gets_the_same_table_once() -> None:
    output = io.StringIO()
    async with nats_server() as server, connected(server.url) as client:
        await (await FakeGateway(client).start()).entry()
        console = Console(file=output, width=60, force_terminal=True, color_system=None)
        await list_calls(console, SETTINGS, server.url, False)
    _, row = output.getvalue().splitlines()
    assert "talking" in row
    assert CALL[-6:] in row
    assert len(row.rstrip()) <= 60


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_on_a_narrow_terminal_phase_words_and_a_name_for_commands_are_left(width: int) -> None:
    board = Board()
    several = ("01M7ZPPX8BNE1MW5VJABCDEF", "01M7ZPPX8BNE1MW5VJGHIJKL")
    for call in several:
        parties = {"agent": "bestellung", "caller": "+4930111222333", "callee": "+4930999888777"}
        worker = "wk-01m7zng697mf467mgw2a8jfkk5"
        entry = CallEntry(call=call, org="default", gw="gw-1", wk=worker, epoch=1, phase="talking", **parties)
        board.entry(call, entry.to_json())
        board.event(EVENTS[ev.CallRecording].model_copy(update={"call": call}))
        board.event(EVENTS[ev.CallerTurn].model_copy(update={"call": call, "text": "Guten Tag, " * 20}))
    output = io.StringIO()
    Console(file=output, width=width).print(board.fitted(None, width))
    head, *rows = output.getvalue().splitlines()
    assert "phase" in head
    assert len(rows) == len(several)
    for call, row in zip(several, rows, strict=True):
        assert call[-6:] + " " in row
        assert "talking" in row
        assert "caller:" in row
        assert len(row.rstrip()) <= width
