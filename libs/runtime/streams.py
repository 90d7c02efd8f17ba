"""The stream and buckets of the bus: made by whoever comes first, the same by everyone."""

from __future__ import annotations

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, BucketNotFoundError
from nats.js.kv import KeyValue
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from libs.contracts import subjects

DAY_S = 24 * 3600
EVENTS_MAX_AGE_S = 7 * DAY_S
SPEND_MAX_AGE_S = 3 * DAY_S
DUPLICATE_WINDOW_S = 120

_BUCKETS = {
    subjects.KV_CALLS: KeyValueConfig(subjects.KV_CALLS, storage=StorageType.MEMORY, ttl=6 * 3600),
    subjects.KV_SLOTS: KeyValueConfig(subjects.KV_SLOTS, storage=StorageType.MEMORY),
    subjects.KV_SPEND: KeyValueConfig(subjects.KV_SPEND, storage=StorageType.FILE, ttl=SPEND_MAX_AGE_S),
    subjects.KV_CONFIG: KeyValueConfig(subjects.KV_CONFIG, storage=StorageType.FILE, history=5),
}


async def provision(js: JetStreamContext, wait_s: float = 10.0) -> None:
    """Create the EVENTS stream and the KV buckets where missing; waits for JetStream to come up.

    Raises:
        nats.js.errors.APIError, nats.errors.TimeoutError: JetStream stayed away for `wait_s`.
    """
    async for attempt in AsyncRetrying(
        stop=stop_after_delay(wait_s),
        wait=wait_fixed(0.1),
        retry=retry_if_exception_type((APIError, nats.errors.TimeoutError, nats.errors.NoRespondersError)),
        reraise=True,
    ):
        with attempt:
            await _ensure_events(js)
            for name in _BUCKETS:
                await bucket(js, name)


async def _ensure_events(js: JetStreamContext) -> None:
    config = StreamConfig(
        name=subjects.EVENTS_STREAM,
        subjects=[subjects.EVENTS_FILTER],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=EVENTS_MAX_AGE_S,
        duplicate_window=DUPLICATE_WINDOW_S,
    )
    try:
        await js.add_stream(config)
    except BadRequestError:  # it exists with other settings (an operator's replicas, say): theirs stand
        await js.stream_info(subjects.EVENTS_STREAM)


async def bucket(js: JetStreamContext, name: str) -> KeyValue:
    """Open a KV bucket, creating it when it is missing (R4: a restarted server lost the memory ones)."""
    try:
        return await js.key_value(name)
    except BucketNotFoundError:
        return await js.create_key_value(_BUCKETS[name])
