"""The command `callbus`. Each command here only reads its arguments; the work is in the modules beside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.invocation import CALLS, CONFIGURATION, OPERATION, Json, Nats, console, run, sentences, settings
from cli.live import live_app
from cli.ports import free_port
from cli.tools import tools_app

app = typer.Typer(
    name="callbus",
    help="Phone calls answered and placed by an AI agent: start everything, call, watch calls, ask what was said.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
)
catalog_app = typer.Typer(no_args_is_help=True, help="The products that agents sell.")
app.add_typer(catalog_app, name="catalog", rich_help_panel=CONFIGURATION)
app.add_typer(live_app)
app.add_typer(tools_app)


@app.command(
    rich_help_panel=OPERATION,
    epilog="Examples: callbus up · callbus up --workers 4 --sip-port 5070 · callbus up --detach",
)
def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="AI workers")] = 2,
    sip_port: Annotated[
        int | None, typer.Option(help="SIP port (0: any free one); else SIP_LISTEN_PORT, else 5060")
    ] = None,
    sip_host: Annotated[str | None, typer.Option(help="Address to take calls on; else all")] = None,
    rehearsal: Annotated[
        bool | None, typer.Option("--rehearsal/--no-rehearsal", help="Stand-in for OpenAI; default: when no key is set")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready")] = False,
) -> None:
    """Start the bus and all services, keep them running until Ctrl-C.

    Databases, logs and state are kept in var/, or in the directory that CALLBUS_VAR names.
    """
    from cli import up as running

    found = settings()
    options = running.UpOptions(
        workers=workers,
        sip_port=(found.sip_listen_port if sip_port is None else sip_port) or free_port(transport="udp"),
        sip_host=sip_host or found.sip_listen_host,
        rehearsal=rehearsal,
    )
    if not detach:
        return run(running.up(found, options, console))
    arguments = ["--workers", str(workers), "--sip-port", str(options.sip_port), "--sip-host", options.sip_host]
    if rehearsal is not None:
        arguments.append("--rehearsal" if rehearsal else "--no-rehearsal")
    with sentences():
        running.make_plan(found, options)  # say what is in the way here, not in a log
        running.detach(found, arguments, console)
    return None


@app.command(rich_help_panel=OPERATION, epilog="Example: callbus down")
def down() -> None:
    """End everything that `callbus up` started, and nothing else."""
    from cli import up as running

    with sentences():
        ended = running.down(settings(), console)
    if ended:
        console.print("callbus has ended")
    else:
        console.print("callbus was not running here")


@app.command(
    rich_help_panel=OPERATION,
    epilog="Examples: callbus doctor · callbus doctor --json | jq '.[] | select(.state!=\"ok\")'",
)
def doctor(bus: Nats = None, as_json: Json = False) -> None:
    """Look for what is wrong or missing, and say what to do about it; exit code 1 when something is broken."""
    from cli.doctor import examine

    if not run(examine(console, settings(), bus, as_json)):
        raise typer.Exit(1)


@app.command(
    rich_help_panel=OPERATION,
    epilog="Examples: callbus costs --calls 1000 --minutes 3 · callbus costs --today",
)
def costs(  # noqa: PLR0913, PLR0917  its options are the arguments
    calls: Annotated[int, typer.Option(min=1, help="How many calls")] = 1000,
    minutes: Annotated[float, typer.Option(min=0.1, max=240, help="How long each is")] = 3.0,
    talk_share: Annotated[float, typer.Option(min=0, max=1, help="Part of a call in which the agent speaks")] = 0.45,
    caller_share: Annotated[float, typer.Option(min=0, max=1, help="Part in which the caller speaks")] = 0.35,
    turns: Annotated[float, typer.Option(min=0.1, max=60, help="Answers of the agent a minute")] = 4.0,
    cached: Annotated[float, typer.Option(min=0, max=1, help="Part of what is re-sent that was cached")] = 0.8,
    model: Annotated[str | None, typer.Option(help="This model alone")] = None,
    today: Annotated[bool, typer.Option("--today", help="What organisations spent today, and their budgets")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Compare what calls cost with each backend, from the prices in models.toml; or see what was spent today."""
    from cli import costs as money
    from cli.estimate import Assumptions

    if today:
        return run(money.print_today(console, settings(), bus, as_json))
    if talk_share + caller_share > 1:
        raise typer.BadParameter("--talk-share and --caller-share are parts of the same call: together at most 1")
    given = Assumptions(
        minutes=minutes,
        agent_share=talk_share,
        caller_share=caller_share,
        turns_per_minute=turns,
        cached_share=cached,
    )
    with sentences():
        money.compare(console, money.load_models(settings().models_file), calls, given, model, as_json)
    return None


@app.command(
    rich_help_panel=OPERATION,
    epilog="Examples: callbus demo · callbus demo --backend live · callbus demo --kill-worker",
)
def demo(
    kill_worker: Annotated[bool, typer.Option(help="SIGKILL the worker in mid-call; the call must go on")] = False,
    freeze_worker: Annotated[bool, typer.Option(help="SIGSTOP it, SIGCONT 3 s later; the call must go on")] = False,
    keep_log: Annotated[bool, typer.Option("--keep-log", help="Keep logs, databases and the recording")] = False,
    backend: Annotated[
        Literal["realtime", "live", "pipeline"], typer.Option(help="How the agent thinks and speaks")
    ] = "realtime",
) -> None:
    """A whole call on this machine, checked: real SIP and RTP, German speech, an order, an interruption."""
    from cli.demo.run import DemoOptions, run_demo

    if kill_worker and freeze_worker:
        raise typer.BadParameter("choose one of --kill-worker and --freeze-worker")
    if not run(run_demo(DemoOptions(kill_worker, freeze_worker, keep_log, backend), console)):
        raise typer.Exit(1)


@app.command(
    rich_help_panel=CONFIGURATION,
    epilog="Examples: callbus apply deploy/config · callbus apply --dry-run agents/sales.yaml",
)
def apply(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE|DIR...", help="YAML files, or directories of them")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and compare, publish nothing; works without a bus")
    ] = False,
    bus: Nats = None,
) -> None:
    """Publish agents, routes and organisations; running gateways follow at once."""
    from cli.queries import apply_files

    run(apply_files(console, settings(), bus, paths, dry_run))


@app.command(
    rich_help_panel=CALLS,
    epilog="Examples: callbus calls · callbus calls --watch · callbus calls --json | jq .[].caller",
)
def calls(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="A table that stays and follows, until Ctrl-C")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the calls that are going on: who talks with whom, how far, and what was said last."""
    from cli.calls import list_calls

    run(list_calls(console, settings(), bus, as_json, watch=watch))


@app.command(
    rich_help_panel=CALLS,
    epilog="Examples: callbus tap last · callbus tap all · callbus tap last --wav call.wav · "
    "callbus tap all --filter tool --filter 'call.*' · callbus tap 01JC… --json | jq .kind",
)
def tap(  # noqa: PLR0913, PLR0917  one parameter per option
    call: Annotated[str, typer.Argument(help="A call id, the beginning or end of it, `last`, or `all`")] = "last",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a call that is not known yet")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Sentences, usage and turn starts as well")] = False,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="KIND", help="Only these kinds: `call.ended`, `tool`, `caller.*`; repeatable"),
    ] = None,
    partials: Annotated[
        bool | None,
        typer.Option(
            "--partials/--no-partials", help="What is being said, before a turn is over; default: on a terminal"
        ),
    ] = None,
    wav: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what is heard: stereo, the caller left, the agent right")
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play what is heard, with aplay, paplay, ffplay or sox")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Follow a call: its transcript and events so far, then live until it ends."""
    from cli.follow import TapOptions, follow

    options = TapOptions(wait, verbose, as_json, partials, tuple(kinds or ()), wav, play)
    run(follow(console, settings(), bus, call, options))


@app.command(
    rich_help_panel=CALLS,
    epilog="Examples: callbus trace last · callbus trace last --follow · callbus trace 01JC… --pcap call.pcap",
)
def trace(
    call: Annotated[
        str, typer.Argument(help="A call id, live or ended, the beginning or end of it, or `last`")
    ] = "last",
    pcap: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the SIP messages for tshark, Wireshark or sipp. It holds SIP, not audio; "
            "messages over TCP and TLS stand in it as UDP",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the call has ended")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Show a call's SIP messages as a ladder, and its RTP statistics; credentials are removed."""
    from cli.trace import TraceOptions, trace_call

    run(trace_call(console, settings(), bus, call, TraceOptions(pcap, follow, as_json)))


@app.command(rich_help_panel=CALLS, epilog="Examples: callbus conversations · callbus conversations --limit 5 --json")
def conversations(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first")] = 20,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the stored conversations."""
    from cli.queries import list_conversations

    run(list_conversations(console, settings(), bus, limit, as_json))


@app.command(rich_help_panel=CALLS, epilog="Examples: callbus show last · callbus show 01JC… --json")
def show(
    call: Annotated[str, typer.Argument(help="A call id, the beginning or end of it, or `last`")] = "last",
    failed: Annotated[bool, typer.Option("--failed", help="With `last`: the last call that failed")] = False,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Show a stored conversation: turns, tool calls, outcome, cost; of a failed one, why."""
    from cli.queries import show_conversation

    run(show_conversation(console, settings(), bus, call, as_json, failed=failed))


@app.command(rich_help_panel=CALLS, epilog="Examples: callbus play last · callbus play 01JC… --out call.wav")
def play(
    call: Annotated[str, typer.Argument(help="A call id, the beginning or end of it, or `last`")] = "last",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a WAV file instead of playing it")] = None,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """Hear the recording of a call: the caller left, what they heard right."""
    from cli.play import PlayOptions, play as play_call
    from cli.queries import print_json

    found = run(play_call(console, settings(), bus, call, PlayOptions(out, as_json)))
    if found is not None:
        print_json(found)


@app.command(rich_help_panel=CALLS, epilog="Examples: callbus orders · callbus orders --csv > orders.csv")
def orders(
    csv: Annotated[bool, typer.Option("--csv", help="One row per order line, for spreadsheets")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the latest first")] = 100,
    bus: Nats = None,
    as_json: Json = False,
) -> None:
    """List the stored orders."""
    from cli.queries import list_orders

    run(list_orders(console, settings(), bus, limit, as_csv=csv, as_json=as_json))


@catalog_app.command("import", epilog="Example: callbus catalog import products.csv")
def catalog_import(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV with the columns of the sample")],
    bus: Nats = None,
) -> None:
    """Replace the catalogue by a CSV file; mistakes are named by line, then nothing changes."""
    from cli.queries import import_catalog

    run(import_catalog(console, settings(), bus, file))


if __name__ == "__main__":
    sys.exit(app())
