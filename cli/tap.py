"""`callbus tap`: a call's events, the past ones first, then live; each once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli.bus import connected
from cli.errors import CliError
from libs.contracts import subjects
from libs.contracts.ids import is_token

ALL = "all"
LAST = "last"
NO_STREAM = "the bus has no event stream yet: has any service started on it?"
UNKNOWN_AFTER_S = 2.0
LOOK_AGAIN_S = 0.25
MOST_NAMED = 5
LOOK_S = 1.0  # how soon a bus that went away is noticed


def require_name(wanted: str) -> None:
    """Return if this can be (a part of) a call's id.

    Raises:
        CliError: it cannot.
    """
    if not is_token(wanted):
        raise CliError(f"{wanted!r} is not a call id: `callbus conversations` and `callbus calls` list them")


async def call_meant(client: Client, wanted: str) -> str:
    """The call id for `wanted`: an id, or `last` for the latest call.

    Raises:
        CliError: it is no id, or there was no call yet.
    """
    require_name(wanted)
    if wanted != LAST:
        return wanted
    js = client.jetstream()
    try:
        message = await js.get_last_msg(subjects.EVENTS_STREAM, subjects.events_of_kind("call.offered"))
    except NotFoundError:
        raise CliError("there was no call yet: dial `sip:bestellung@HOST`, or run `callbus demo`") from None
    return subjects.parse_event(message.subject or "").call


async def past_call(client: Client, wanted: str) -> str:
    """The call of the stream whose id begins or ends so; `wanted` itself when it is an id, or none fits.

    Raises:
        CliError: several fit; some are listed.
    """
    js, offered = client.jetstream(), subjects.events_of_kind("call.offered")
    try:
        info = await js.stream_info(subjects.EVENTS_STREAM, subjects_filter=offered)
    except NotFoundError:
        raise CliError(NO_STREAM) from None
    known = sorted((subjects.parse_event(subject).call for subject in info.state.subjects or {}), reverse=True)
    name = wanted.upper()
    found = [call for call in known if call.upper().startswith(name) or call.upper().endswith(name)]
    if wanted in found or not found:
        return wanted
    if len(found) > 1:
        names = ", ".join(found[:MOST_NAMED])
        raise CliError(f"{wanted!r} fits {len(found)} calls; type more of one, of {names} say")
    return found[0]


async def require_known(client: Client, call: str, wait_s: float = UNKNOWN_AFTER_S) -> None:
    """Return as soon as the call has an event.

    Raises:
        CliError: it has none after `wait_s`.
    """
    loop = asyncio.get_running_loop()
    deadline_at = loop.time() + wait_s
    while True:
        try:
            await client.jetstream().get_last_msg(subjects.EVENTS_STREAM, subjects.events_of(call))
        except NotFoundError:
            if loop.time() >= deadline_at:
                raise CliError(
                    f"no call {call} is known: `callbus conversations` lists them all "
                    "(--wait waits for one that is to come)"
                ) from None
            await asyncio.sleep(LOOK_AGAIN_S)
        else:
            return


async def lasting_events(
    address: str, call: str, gone: Callable[[], None], there: Callable[[], bool]
) -> AsyncGenerator[Msg, None]:
    """`events` that outlive a restart of the bus: each once, from where they stopped.

    `gone` is called when the bus goes away, `there` asked whether it is worth waiting for.

    Raises:
        NotRunning: nothing answers there in the beginning.
        CliError: the bus went away, and `there` says that it will not come back.
    """
    after: int | None = None
    while True:
        try:
            async with connected(address) as client:
                after = await _place(client, call, after)
                async for message in events(client, call, after):
                    after = message.metadata.sequence.stream
                    yield message
        except (CliError, nats.errors.Error):
            if after is None or not there():
                raise
            gone()
            await _until_back(address, there)


async def _place(client: Client, call: str, after: int | None) -> int:
    """The sequence number after which to read: a stream that was made anew is read from its beginning."""
    try:
        last = (await client.jetstream().stream_info(subjects.EVENTS_STREAM)).state.last_seq
    except NotFoundError:
        raise CliError(NO_STREAM) from None
    if after is None:
        return last if call == ALL else 0
    return after if after <= last else 0


async def _until_back(address: str, there: Callable[[], bool]) -> None:
    while there():
        await asyncio.sleep(LOOK_AGAIN_S)
        try:
            async with connected(address) as client:
                await client.jetstream().stream_info(subjects.EVENTS_STREAM)
        except (CliError, nats.errors.Error):
            continue
        return


async def events(client: Client, call: str, after: int | None = None) -> AsyncGenerator[Msg, None]:
    """Messages of one call from its beginning, or of all calls from now on; endless. `after` is a sequence number of
    the stream, to go on from there.

    One ordered consumer gives past and present without a gap between them.

    Raises:
        CliError: the bus went away.
    """
    every = call == ALL
    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW if every else DeliverPolicy.ALL)
    if after is not None:
        config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    try:
        subscription = await client.jetstream().subscribe(
            subjects.events_of(subjects.ANY if every else call),
            cb=arrived.put,  # not `next_msg`, which may take a cancellation for its time-out and go on
            ordered_consumer=True,
            config=config,
        )
    except NotFoundError:
        raise CliError(NO_STREAM) from None
    try:
        while not client.is_closed:
            try:
                async with asyncio.timeout(LOOK_S):
                    message = await arrived.get()
            except TimeoutError:
                continue
            yield message
    finally:
        if not client.is_closed:
            await subscription.unsubscribe()
    raise CliError("the bus went away")
