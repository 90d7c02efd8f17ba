"""The demo's call on a callbus that runs elsewhere on this machine, in containers say.

    python -m cli.demo.external --nats nats://local:PASSWORD@127.0.0.1:4222 --rehearsal http://127.0.0.1:32768

Its agent has to be the one of deploy/config, its model the rehearsal whose address is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.console import Console

from cli.bus import bus_address, connected
from cli.demo.call_log import CallLog
from cli.demo.caller import read_clips
from cli.demo.checks import Check
from cli.demo.conversation import Place, converse, verdict
from cli.errors import CliError
from cli.invocation import Nats, console, run, settings
from libs.contracts import subjects

TIME_LIMIT_S = 150.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def call_elsewhere(
    nats_url: str, place: Place, out: Console, trouble: Callable[[CallLog], Awaitable[None]] | None = None
) -> list[Check]:
    """One call and what was found. `trouble` is called in the middle of the third answer.

    Raises:
        CliError: there was no call to judge, or it took too long.
    """
    clips = read_clips()
    log = CallLog(out)
    try:
        async with asyncio.timeout(TIME_LIMIT_S), connected(nats_url) as client:
            before = (await client.jetstream().stream_info(subjects.EVENTS_STREAM)).state.last_seq
            following = asyncio.create_task(log.follow(client, before))
            try:
                return await converse(client, place, log, clips, (lambda: trouble(log)) if trouble else None)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
    except TimeoutError:
        raise CliError(f"the call did not end within {TIME_LIMIT_S:g} s") from None


@app.command()
def main(
    rehearsal: Annotated[str, typer.Option(metavar="URL", help="The stand-in that the workers use")],
    bus: Nats = None,
    sip_port: Annotated[int, typer.Option(help="UDP port of the SIP gateway on this machine")] = 5060,
) -> None:
    """Place the demo call and print the checklist."""
    checks = run(call_elsewhere(bus_address(bus, settings()), Place(sip_port, rehearsal), console))
    if not verdict(console, checks):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
