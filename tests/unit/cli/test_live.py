"""Commands to a live call: which call is meant, what is sent, what is said."""

import asyncio

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.bus import connected
from cli.calls import list_calls
from cli.commands import command_call, live_calls, meant
from cli.errors import CliError
from cli.main import app
from cli.settings import CliSettings
from libs.contracts.commands import (
    Accept,
    Command,
    CommandReply,
    Decline,
    HangUp,
    Hold,
    Mute,
    Say,
    SendDtmf,
    Transfer,
)
from libs.contracts.heartbeat import CallEntry
from tests.support.nats import nats_server
from tests.unit.cli.fake_gateway import CALL, FakeGateway

OTHER = "01JCALL0000000000000000002"


def entry(call: str, phase: str = "talking", offered_at: str = "") -> CallEntry:
    return CallEntry(
        call=call, org="default", gw="gw", wk="wk", epoch=1, phase=phase, agent="a", caller="+4930", callee="100",
        offered_at=offered_at,
    )  # fmt: skip


ONE, TWO = entry("01JA7", offered_at="2026-03-01T09:00:00Z"), entry("01JB8", offered_at="2026-03-01T10:00:00Z")
WAITS = entry("01JC9", "waiting", "2026-03-01T08:00:00Z")


@pytest.mark.parametrize("wanted", ["01JA7", "01JA", "A7", "a7"])
def test_a_call_is_found_by_its_id_its_beginning_or_its_end(wanted: str) -> None:
    assert meant([ONE, TWO], wanted) is ONE


def test_the_latest_and_the_only_call_need_no_id() -> None:
    assert meant([ONE, TWO, WAITS], "last") is TWO
    assert meant([ONE], None) is ONE


def test_what_is_ambiguous_is_refused_with_the_list() -> None:
    with pytest.raises(CliError, match=r"(?s)several calls .* `last`:\n  01JA7  \+4930 → 100, talking\n  01JB8"):
        meant([ONE, TWO], None)
    with pytest.raises(CliError, match=r"(?s)'01J' fits several calls; type more of one:\n  01JA7.*\n  01JB8"):
        meant([ONE, TWO], "01J")
    with pytest.raises(CliError, match=r"(?s)no live call begins or ends with 'X'; going on:\n  01JA7"):
        meant([ONE], "X")
    with pytest.raises(CliError, match="no call is going on"):
        meant([], "last")


def test_an_id_that_is_another_ones_beginning_is_no_ambiguity() -> None:
    longer = entry("01JA77")
    assert meant([longer, ONE], "01JA7") is ONE


def test_a_person_accepts_the_one_call_that_waits() -> None:
    assert meant([ONE, TWO, WAITS], None, waiting=True) is WAITS
    assert meant([ONE, TWO, WAITS], "last", waiting=True) is WAITS
    with pytest.raises(CliError, match="no call waits for a person"):
        meant([ONE, TWO], None, waiting=True)


COMMANDS: list[tuple[list[str], Command, str]] = [
    (["accept"], Accept(), "accepted; its agent takes it"),
    (["reject", "last", "--reason", "closed"], Decline(detail="closed"), "rejected"),
    (["hangup", CALL[-5:]], HangUp(), "hung up"),
    (
        ["transfer", "+49 30 1", "--mode", "bridge"],
        Transfer(target="+49 30 1", mode="bridge"),
        "transfer to +49 30 1 asked for; `callbus tap` shows how it goes",
    ),
    (["dtmf", "last", "12#a"], SendDtmf(digits="12#A"), "pressed 12#A"),
    (["hold"], Hold(held=True), "on hold"),
    (["hold", "last", "--off"], Hold(held=False), "taken back from hold"),
    (["mute"], Mute(muted=True), "the agent is muted"),
    (["unmute"], Mute(muted=False), "the agent is heard again"),
    (["say", CALL, "Einen Moment bitte."], Say(text="Einen Moment bitte."), "the agent is told to say it"),
]


async def test_each_command_goes_to_the_leg_and_says_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        gateway.ends_when_told = False
        await gateway.entry(phase="waiting")
        for words, command, said in COMMANDS:
            result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--nats", server.url])
            assert (result.exit_code, result.output) == (0, f"{CALL}: {said}\n"), words
            assert gateway.commands[-1] == command


async def test_a_refusal_is_the_legs_own_sentence() -> None:
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        await gateway.entry()
        gateway.command_reply = CommandReply(ok=False, error="the call is not on hold")
        with pytest.raises(CliError, match=r"^refused: the call is not on hold$"):
            await command_call(Console(quiet=True), CliSettings(), server.url, None, Hold(held=False), "done")


async def test_a_call_whose_gateway_is_gone_is_told_as_such() -> None:
    async with nats_server() as server:
        async with connected(server.url) as client:
            await (await FakeGateway(client).start()).entry()
        with pytest.raises(CliError, match=f"nobody owns call {CALL} any more"):
            await command_call(Console(quiet=True), CliSettings(), server.url, None, HangUp(), "done")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dtmf", "12x"], "DIGITS"),
        (["dtmf", "last", "1", "2"], "not 3 words"),
        (["transfer", "last", "x" * 201], "TARGET"),
        (["say", "Guten", "Tag", "Herr", "Meier"], "put quotes around"),
    ],
)
def test_arguments_are_checked_before_anything_is_asked(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.stderr


async def test_calls_marks_those_that_wait_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    async with nats_server() as server, connected(server.url) as client:
        gateway = await FakeGateway(client).start()
        await gateway.entry()
        await gateway.entry(OTHER, "waiting")
        assert [one.call for one in await live_calls(client)] == [CALL, OTHER]
        console = Console(width=200)
        await list_calls(console, CliSettings(), server.url, False)
    rows = capsys.readouterr().out.splitlines()
    assert "accept?" not in rows[1]
    assert OTHER in rows[2]
    assert "waiting (accept?)" in rows[2]
    assert rows[3].startswith("`callbus accept CALL` lets a waiting call through")
