"""Waiting for what has no event of its own to wait for, such as a counter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(happened: Callable[[], object], timeout_s: float = 20) -> None:
    """Return as soon as it is so."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.01)
