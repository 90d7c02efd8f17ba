"""`callbus tap`: a call's events, the past ones first, then live; each once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli.errors import CliError
from libs.contracts import subjects
from libs.contracts.ids import is_token

ALL = "all"
LAST = "last"
LOOK_S = 1.0  # how soon a bus that went away is noticed


async def call_meant(client: Client, wanted: str) -> str:
    """The call id for `wanted`: an id, or `last` for the latest call.

    Raises:
        CliError: it is no id, or there was no call yet.
    """
    if wanted != LAST:
        if not is_token(wanted):
            raise CliError(f"{wanted!r} is not a call id: `callbus conversations` and `callbus calls` list them")
        return wanted
    js = client.jetstream()
    try:
        message = await js.get_last_msg(subjects.EVENTS_STREAM, subjects.events_of_kind("call.offered"))
    except NotFoundError:
        raise CliError("there was no call yet: dial `sip:bestellung@HOST`, or run `callbus demo`") from None
    return subjects.parse_event(message.subject or "").call


async def events(client: Client, call: str) -> AsyncGenerator[Msg, None]:
    """Messages of one call from its beginning, or of all calls from now on; endless.

    One ordered consumer gives past and present without a gap between them.

    Raises:
        CliError: the bus went away.
    """
    every = call == ALL
    policy = DeliverPolicy.NEW if every else DeliverPolicy.ALL
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    try:
        subscription = await client.jetstream().subscribe(
            subjects.events_of(subjects.ANY if every else call),
            cb=arrived.put,  # not `next_msg`, which may take a cancellation for its time-out and go on
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=policy),
        )
    except NotFoundError:
        raise CliError("the bus has no event stream yet: has any service started on it?") from None
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
