from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.01)
