"""What callers, models and tools said stands on the screen as they said it, and does nothing there."""

import io

import pytest
from rich.text import Text

from cli.calls import Board
from cli.consoles import PlainConsole
from cli.invocation import console, errors
from cli.queries import print_table, table
from cli.show import print_conversation
from libs.contracts.heartbeat import CallEntry
from tests.unit.cli.fake_gateway import CALL

SAID = ("[applause]", "[/x]", "[bold]x[/bold]", "sip:a@[2001:db8:a:b::1]", ":100:", r"\[x]")


def shown(width: int = 200) -> tuple[PlainConsole, io.StringIO]:
    output = io.StringIO()
    return PlainConsole(file=output, width=width), output


@pytest.mark.parametrize("said", SAID)
def test_markup_and_emoji_of_a_caller_are_text(said: str) -> None:
    plain, output = shown()
    plain.print(said)
    rows = table("caller")
    rows.add_row(said)
    print_table(plain, rows)
    board = Board()
    parties = {"agent": "a", "caller": said, "callee": "100"}
    board.listed([CallEntry(call=CALL, org="default", gw="gw-1", wk=None, epoch=1, phase="talking", **parties)])
    plain.print(board.rows())
    conversation = {"call": "X", "caller": said}
    print_conversation(plain, {"conversation": conversation, "turns": [], "tool_calls": []})
    assert output.getvalue().count(said) == 4


@pytest.mark.parametrize("command", ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "a\rb", "a\x08b", "\x7f"])
def test_no_text_commands_the_terminal(command: str) -> None:
    plain, output = shown()
    plain.print(command)
    plain.print(Text(f"one {command}", style="bold"))
    rows = table("caller")
    rows.add_row(command)
    print_table(plain, rows)
    assert not set(output.getvalue()) & set("\x1b\x07\x9b\r\x08\x7f")


def test_lines_tabs_and_styles_stay() -> None:
    output = io.StringIO()
    plain = PlainConsole(file=output, width=80, force_terminal=True, color_system="standard")
    plain.print("one\ntwo", style="red")
    assert output.getvalue() == "\x1b[31mone\x1b[0m\n\x1b[31mtwo\x1b[0m\n"


def test_commands_print_on_such_consoles() -> None:
    assert isinstance(console, PlainConsole)
    assert isinstance(errors, PlainConsole)
