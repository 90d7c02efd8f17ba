"""Commands that place a call or act on a live one. Each only reads its arguments; the work is in `call`, `commands`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from cli.bus import worth_waiting
from cli.errors import CliError
from cli.exit_codes import ExitCode, table_for_help
from cli.invocation import CALLS, LIVE_CALL, Nats, console, errors, run, sentences, settings
from cli.tap import LAST
from libs.contracts.commands import (
    Accept,
    Command,
    Decline,
    HangUp,
    Hold,
    Mute,
    Record,
    Say,
    SendDtmf,
    Transfer,
)
from libs.contracts.ids import is_token

live_app = typer.Typer()

WHICH = "The call: its id, the beginning or end of it, or `last`; not needed when only one is going on"
Call = Annotated[str | None, typer.Argument(metavar="[CALL]", help=WHICH)]
CALL_AND = f"What is to be done, after the call if there are several. {WHICH}"


@live_app.command(
    rich_help_panel=CALLS,
    epilog="Examples: callbus call '+49 30 123456' --agent bestellung · callbus call 030123456 --agent bestellung "
    "--voice cedar --silence-duration 700 --system-message @prompt.md · callbus call sip:lab@192.0.2.7 --agent echo "
    f"--json | jq .kind\n\n{table_for_help()}",
)
def call(  # noqa: PLR0913  one parameter per option
    *,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="Whom to call: a phone number or a SIP address")],
    agent: Annotated[str, typer.Option(help="The agent that speaks, by name")],
    backend: Annotated[
        Literal["realtime", "live", "pipeline"] | None, typer.Option(help="How the agent speaks")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Another model than the agent's")] = None,
    voice: Annotated[str | None, typer.Option(help="Another voice than the agent's")] = None,
    system_message: Annotated[
        str | None, typer.Option(metavar="TEXT|@FILE", help="Another system message than the agent's")
    ] = None,
    silence_duration: Annotated[
        int | None, typer.Option(metavar="MS", min=100, max=10_000, help="Silence that ends a turn, in ms")
    ] = None,
    vad_threshold: Annotated[
        float | None,
        typer.Option(metavar="X", min=-96, max=1, help="Where speech begins: 0 to 1; dBFS with the pipeline"),
    ] = None,
    prefix_padding: Annotated[
        int | None, typer.Option(metavar="MS", min=0, max=2000, help="Audio kept before speech begins, in ms")
    ] = None,
    save_recordings: Annotated[bool, typer.Option("--save-recordings", help="Record the call")] = False,
    reg_timeout: Annotated[
        float, typer.Option(metavar="S", min=0, max=300, help="How long the trunk may take to register, in seconds")
    ] = 20,
    trunk: Annotated[str | None, typer.Option(help="The trunk to call through; else the first that may")] = None,
    caller: Annotated[
        str | None, typer.Option("--from", metavar="NUMBER", help="The number that the callee sees; else the trunk's")
    ] = None,
    entrance: Annotated[Literal["sip", "twilio"], typer.Option(help="Which way out")] = "sip",
    ring_timeout: Annotated[
        float, typer.Option(metavar="S", min=1, max=300, help="How long it may ring, in seconds")
    ] = 60,
    org: Annotated[str, typer.Option(help="The organisation that the agent belongs to")] = "default",
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Do not end what was started for this call")
    ] = False,
    bus: Nats = None,
    as_json: Annotated[bool, typer.Option("--json", help="The call's events as JSON, one a line")] = False,
) -> None:
    """Call somebody, let an agent speak, and print the conversation as it happens.

    What is not running is started first and ended afterwards. Ctrl-C hangs up; a second one leaves at once.
    """
    from cli import call as outbound

    with sentences():
        for option, name in (("--agent", agent), ("--org", org)):
            if not is_token(name):
                raise CliError(f"{option} {name!r} is no name: letters, digits, _ and - are allowed", ExitCode.USAGE)
        options = outbound.CallOptions(
            to=number,
            agent=agent,
            changes=outbound.changes_of(
                backend=backend,
                model=model,
                voice=voice,
                prompt=outbound.message_text(system_message),
                silence_ms=silence_duration,
                threshold=vad_threshold,
                prefix_padding_ms=prefix_padding,
                recording=save_recordings,
            ),
            org=org,
            entrance=entrance,
            trunk=trunk,
            caller=caller,
            ring_timeout_s=ring_timeout,
            reg_timeout_s=reg_timeout,
            as_json=as_json,
        )
        found = settings()
        with outbound.callbus_running(found, bus, errors, keep_running=keep_running) as address:
            code = run(outbound.place(console, errors, address, options, worth_waiting(bus, found)))
    raise typer.Exit(code)


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus accept · callbus accept last")
def accept(call: Call = None, bus: Nats = None) -> None:
    """Let a call through to its agent that waits for a person (routes with `answer: manual`)."""
    _send(bus, call, Accept(), "accepted; its agent takes it", waiting=True)


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus reject · callbus reject last --reason 'closed'")
def reject(
    call: Call = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the call's record")] = "",
    bus: Nats = None,
) -> None:
    """Refuse a call that waits for a person."""
    _send(bus, call, Decline(detail=reason), "rejected", waiting=True)


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus hangup · callbus hangup 7K2Q9M")
def hangup(call: Call = None, bus: Nats = None) -> None:
    """End a call."""
    _send(bus, call, HangUp(), "hung up")


@live_app.command(
    rich_help_panel=LIVE_CALL,
    epilog="Examples: callbus transfer '+49 30 123456' · callbus transfer last sip:22@pbx.example --mode bridge",
)
def transfer(
    words: Annotated[list[str], typer.Argument(metavar="[CALL] TARGET", help=CALL_AND)],
    mode: Annotated[
        Literal["auto", "refer", "bridge"],
        typer.Option(
            help="refer: the other side calls the target; bridge: we do and join the two; auto: as the trunk can"
        ),
    ] = "auto",
    announcement: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the target hears before it is joined (bridge)")
    ] = None,
    bus: Nats = None,
) -> None:
    """Connect the other side with somebody else; a failure returns it to the agent."""
    which, target = _call_and(words, "TARGET")
    command = _checked(lambda: Transfer(target=target, mode=mode, announcement=announcement), "TARGET", target)
    _send(bus, which, command, f"transfer to {target} asked for; `callbus tap` shows how it goes")


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus dtmf 12# · callbus dtmf last 4711")
def dtmf(words: Annotated[list[str], typer.Argument(metavar="[CALL] DIGITS", help=CALL_AND)], bus: Nats = None) -> None:
    """Press keys towards the other side: 0-9, A-D, * and #."""
    which, digits = _call_and(words, "DIGITS")
    command = _checked(lambda: SendDtmf(digits=digits.upper()), "DIGITS", digits, "up to 32 of 0-9, A-D, * and #")
    _send(bus, which, command, f"pressed {digits.upper()}")


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus hold · callbus hold last --off")
def hold(
    call: Call = None,
    off: Annotated[bool, typer.Option("--off", help="Take the call back from hold")] = False,
    bus: Nats = None,
) -> None:
    """Put the other side on hold, or take it back."""
    _send(bus, call, Hold(held=not off), "taken back from hold" if off else "on hold")


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus mute · callbus mute 7K2Q9M")
def mute(call: Call = None, bus: Nats = None) -> None:
    """Silence the agent towards the other side; the conversation goes on."""
    _send(bus, call, Mute(muted=True), "the agent is muted")


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus unmute · callbus unmute last")
def unmute(call: Call = None, bus: Nats = None) -> None:
    """Let the agent be heard again."""
    _send(bus, call, Mute(muted=False), "the agent is heard again")


@live_app.command(rich_help_panel=LIVE_CALL, epilog="Examples: callbus record · callbus record last --off")
def record(
    call: Call = None,
    off: Annotated[bool, typer.Option("--off", help="Stop the recording")] = False,
    bus: Nats = None,
) -> None:
    """Record the call from now on; `callbus play` has it when the call has ended. Tell those who are recorded."""
    _send(bus, call, Record(on=not off), "no longer recorded" if off else "recorded from now on")


@live_app.command(
    rich_help_panel=LIVE_CALL,
    epilog="Examples: callbus say 'Einen Moment bitte.' · callbus say last 'Auf Wiederhören.'",
)
def say(words: Annotated[list[str], typer.Argument(metavar="[CALL] TEXT", help=CALL_AND)], bus: Nats = None) -> None:
    """Let the agent say something."""
    which, text = _call_and(words, "TEXT")
    _send(bus, which, _checked(lambda: Say(text=text), "TEXT", text), "the agent is told to say it")


def _call_and(words: list[str], what: str) -> tuple[str | None, str]:
    """The call, if it was named, and the other argument."""
    if len(words) > 2:
        raise typer.BadParameter(f"give [CALL] {what}, not {len(words)} words: put quotes around a text with spaces")
    if words == [LAST]:
        raise typer.BadParameter(f"{what} is missing: it follows `last`")
    return (words[0] if len(words) == 2 else None), words[-1]


def _checked(make: Callable[[], Command], what: str, value: str, allowed: str = "") -> Command:
    try:
        return make()
    except ValidationError as error:
        said = f"{allowed} are allowed" if allowed else error.errors()[0]["msg"]
        raise typer.BadParameter(f"{what} {value!r}: {said}") from None


def _send(bus: str | None, which: str | None, command: Command, done: str, *, waiting: bool = False) -> None:
    from cli.commands import command_call

    run(command_call(console, settings(), bus, which, command, done, waiting=waiting))
