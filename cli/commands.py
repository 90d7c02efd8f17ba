"""Commands to a live call: `callbus accept`, `reject`, `hangup`, `transfer`, `dtmf`, `hold`, `mute`, `say`.

Each finds the call that is meant, sends one command to its leg and prints what came of it.
"""

from __future__ import annotations

import nats.errors
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError
from pydantic import ValidationError
from rich.console import Console

from cli.bus import bus_address, connected, keys_of
from cli.errors import CliError
from cli.settings import CliSettings
from cli.tap import LAST, call_meant, past_call
from libs.contracts import subjects
from libs.contracts.commands import Command, CommandReply
from libs.contracts.heartbeat import CallEntry

COMMAND_TIMEOUT_S = 5.0
WAITING = "waiting"  # the phase of a call that rings until a person accepts it


async def live_calls(client: Client) -> list[CallEntry]:
    """The calls that are going on, the oldest first: the gateways' copy in KV `calls` (R4)."""
    entries: list[CallEntry] = []
    keys = await keys_of(client, subjects.KV_CALLS)
    if not keys:
        return entries
    store = await client.jetstream().key_value(subjects.KV_CALLS)
    for key in keys:
        try:
            entries.append(CallEntry.model_validate_json((await store.get(key)).value or b""))
        except (KeyNotFoundError, ValidationError):
            continue  # it ended in between
    return entries


def meant(entries: list[CallEntry], wanted: str | None, waiting: bool = False) -> CallEntry:
    """The live call that is meant: by id, by its beginning or end, `last`, or None for the only one.

    With `waiting` only calls that wait for a person count for None and `last`.

    Raises:
        CliError: none fits, or several; they are listed.
    """
    if not entries:
        raise CliError("no call is going on: `callbus tap all` shows the next one as it comes")
    if wanted is None or wanted == LAST:
        candidates = [entry for entry in entries if entry.phase == WAITING] if waiting else entries
        if not candidates:
            raise CliError(f"no call waits for a person; going on:\n{_listed(entries)}")
        if wanted == LAST:
            return max(candidates, key=lambda entry: (entry.offered_at, entry.call))
        if len(candidates) > 1:
            raise CliError(f"several calls are going on; name one, or say `last`:\n{_listed(candidates)}")
        return candidates[0]
    found = fitting(entries, wanted)
    if found is None:
        raise CliError(f"no live call begins or ends with {wanted!r}; going on:\n{_listed(entries)}")
    return found


def fitting(entries: list[CallEntry], wanted: str) -> CallEntry | None:
    """The live call with this id, or whose id begins or ends so.

    Raises:
        CliError: several fit; they are listed.
    """
    name = wanted.upper()
    found = [entry for entry in entries if entry.call.upper() == name] or [
        entry for entry in entries if entry.call.upper().startswith(name) or entry.call.upper().endswith(name)
    ]
    if len(found) > 1:
        raise CliError(f"{wanted!r} fits several calls; type more of one:\n{_listed(found)}")
    return found[0] if found else None


async def live_or_past(client: Client, wanted: str) -> str:
    """The id of a call that goes on or has ended: by id, the beginning or end of it, or `last`.

    Raises:
        CliError: it is no id, several fit, or there was no call yet.
    """
    call = await call_meant(client, wanted)
    if wanted == LAST:
        return call
    live = fitting(await live_calls(client), wanted)
    return live.call if live is not None else await past_call(client, wanted)


def _listed(entries: list[CallEntry]) -> str:
    return "\n".join(f"  {entry.call}  {entry.caller} → {entry.callee}, {entry.phase}" for entry in entries)


async def send(client: Client, entry: CallEntry, command: Command) -> CommandReply:
    """Send a command to a call's leg; its reply.

    Raises:
        CliError: the leg refused, with its sentence, or does not answer.
    """
    subject = subjects.control(entry.org, entry.call, "leg")
    try:
        message = await client.request(subject, command.to_json(), timeout=COMMAND_TIMEOUT_S)
        reply = CommandReply.model_validate_json(message.data)
    except nats.errors.NoRespondersError:
        raise CliError(f"nobody owns call {entry.call} any more: it has ended, or its gateway has") from None
    except nats.errors.TimeoutError:
        raise CliError(f"the gateway of call {entry.call} did not answer within {COMMAND_TIMEOUT_S:g} s") from None
    except ValidationError as error:
        raise CliError(f"the gateway's answer cannot be read: {error.errors()[0]['msg']}") from error
    if not reply.ok:
        raise CliError(f"refused: {reply.error}")
    return reply


async def command_call(  # noqa: PLR0913  what every command needs, once
    console: Console,
    settings: CliSettings,
    nats_url: str | None,
    wanted: str | None,
    command: Command,
    done: str,
    *,
    waiting: bool = False,
) -> None:
    """Find the call, send the command, print `done`.

    Raises:
        CliError: no such call, or it was refused.
    """
    async with connected(bus_address(nats_url, settings)) as client:
        entry = meant(await live_calls(client), wanted, waiting)
        await send(client, entry, command)
    console.print(f"{entry.call}: {done}", markup=False, soft_wrap=True)
