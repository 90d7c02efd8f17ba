"""Reads what happened in a call so far from the event stream, up to its present end (R8)."""

from __future__ import annotations

import asyncio

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from libs.contracts import subjects
from libs.contracts.events import Event
from libs.contracts.wire import event_decoder
from libs.runtime.log import get_logger

log = get_logger()

READ_TIMEOUT_S = 1.5
BATCH = 500


async def read_events(js: JetStreamContext, org: str, call: str) -> list[Event]:
    """All events of a call in order; what could be read in time when the stream is slow, logged."""
    events: list[Event] = []
    decoder = event_decoder()
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            config = ConsumerConfig(
                ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, inactive_threshold=5.0, mem_storage=True
            )
            subject = subjects.events_of(call, org)
            consumer = await js.pull_subscribe(subject, stream=subjects.EVENTS_STREAM, config=config)
            waiting = (await consumer.consumer_info()).num_pending or 0
            while waiting > 0:
                for message in await consumer.fetch(min(waiting, BATCH), timeout=READ_TIMEOUT_S):
                    waiting -= 1
                    event = decoder.decode(message.data)
                    if event is not None:
                        events.append(event)
            await consumer.unsubscribe()
    except (TimeoutError, nats.errors.Error, APIError, OSError) as error:
        problem = str(error) or type(error).__name__
        log.error("the call's past could not be read completely", problem=problem, events=len(events))
    return events
