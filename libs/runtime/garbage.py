"""When a process looks for garbage.

A full collection of Python looks at every object there is and stops the process meanwhile: 30 to 75 ms for what the
imports of a service have made alone, which is a hole in the voice of each of its calls. So

 - what is there once a service is up stays until its end: it is frozen, no collection looks at it any more;
 - young objects are collected as ever, which takes less than a millisecond;
 - all others wait until nobody is in a call, or until they may have become too many (`FULL_EVERY_S`).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

QUIET_EVERY_S, FULL_EVERY_S = 60.0, 1800.0
LOOK_S = 5.0
NEVER = 2**31 - 1
YOUNG, MIDDLE = 700, 10  # Python's own, up to 3.13


class FullCollections:
    """When the next full collection is due. A core without I/O."""

    def __init__(self, now: float) -> None:
        self._last_at = now

    def is_due(self, now: float, *, is_quiet: bool) -> bool:
        """Whether it is time; who hears that runs it. `is_quiet`: nobody hears how long it takes."""
        if now - self._last_at < (QUIET_EVERY_S if is_quiet else FULL_EVERY_S):
            return False
        self._last_at = now
        return True


def settle() -> None:
    """Everything is loaded: what is there now is not garbage, and never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


async def collect_forever(is_quiet: Callable[[], bool]) -> None:
    """Run full collections when they are due, until cancelled."""
    loop = asyncio.get_running_loop()
    full = FullCollections(loop.time())
    while True:
        await asyncio.sleep(LOOK_S)
        if full.is_due(loop.time(), is_quiet=is_quiet()):
            gc.collect()
