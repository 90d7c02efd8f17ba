"""`callbus tap`: a call's events, the past ones first, then live; each once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli.errors import CliError
from libs.contracts import subjects
from libs.contracts.ids import is_token

ALL = "all"
LAST = "last"


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


async def events(client: Client, call: str) -> AsyncIterator[Msg]:
    """Messages of one call from its beginning, or of all calls from now on; endless.

    One ordered consumer gives past and present without a gap between them.

    Raises:
        CliError: the bus went away.
    """
    every = call == ALL
    policy = DeliverPolicy.NEW if every else DeliverPolicy.ALL
    try:
        subscription = await client.jetstream().subscribe(
            subjects.events_of(subjects.ANY if every else call),
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=policy),
        )
    except NotFoundError:
        raise CliError("the bus has no event stream yet: has any service started on it?") from None
    while True:
        try:
            yield await subscription.next_msg(timeout=1)
        except (nats.errors.TimeoutError, TimeoutError):
            if client.is_closed:
                raise CliError("the bus went away") from None
        except nats.errors.ConnectionClosedError:
            raise CliError("the bus went away") from None
        await asyncio.sleep(0)
