"""Cancellation that is not lost."""

from __future__ import annotations

import asyncio


def stop_if_cancelled() -> None:
    """Raise `CancelledError` in a task whose cancellation was swallowed; for the head of endless loops.

    Up to Python 3.11 `asyncio.wait_for` (and with it every request of the NATS client) returns its result
    instead of raising when the cancellation comes in the same turn of the loop; a task in a TaskGroup
    would then run on, and the group wait for it for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
