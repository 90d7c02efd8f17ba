"""``python -m services.rehearsal``: serve until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import structlog

from services.rehearsal.scenario import ScenarioError
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings


async def serve(settings: RehearsalSettings) -> None:
    """Run the server and tell where it listens: a log line, and the URL alone on stdout for scripts."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with Rehearsal.start(settings) as rehearsal:
        structlog.get_logger().info(
            "rehearsal server listens",
            base_url=rehearsal.base_url,
            scenarios=[scenario.name for scenario in rehearsal.scenarios],
        )
        sys.stdout.write(f"{rehearsal.base_url}\n")
        sys.stdout.flush()
        gc.collect()
        gc.freeze()  # full collections look at what sessions made alone: with the rest they are heard (docs/adr/0008)
        await stopping.wait()


def main() -> int:
    settings = RehearsalSettings()
    level = logging.getLevelNamesMapping().get(settings.log_level.upper(), logging.INFO)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        asyncio.run(serve(settings))
    except (ScenarioError, OSError) as error:
        sys.stderr.write(f"rehearsal: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
