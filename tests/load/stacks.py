"""The two SIP stacks of the gateway beside each other: how long an answer takes, threads, memory, CPU.

`.venv-pyvoip/bin/python -m tests.load.stacks pyvoip 10`, or `sip` in place of `pyvoip`. One gateway, a worker that is
ready at once, calls that come 50 ms apart and stay up for ten seconds without audio; media is ours with both stacks.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from importlib import import_module
from statistics import median

import psutil
import structlog

from tests.conformance.world import World, world
from tests.support.nats import nats_server

APART_S = 0.05
UP_S = 10.0
DRIVERS = {"sip": ("tests.conformance.sip", "SipDriver"), "pyvoip": ("tests.conformance.pyvoip", "PyVoipDriver")}


async def one(driver, delays_ms: list[float]):
    placed_at = time.monotonic()
    far = await driver.dials("bestellung")
    try:
        await far.wait_answered()
    except Exception:  # noqa: BLE001  whatever went wrong, the call was not answered
        return None
    delays_ms.append((time.monotonic() - placed_at) * 1000)
    return far


async def measure(made: World, driver, calls: int) -> str:
    await made.worker(capacity=1000)
    process = psutil.Process()
    before, memory = process.cpu_times(), process.memory_info().rss
    threads_before = threading.active_count()
    delays_ms: list[float] = []
    dialling = []
    for _ in range(calls):
        dialling.append(asyncio.create_task(one(driver, delays_ms)))
        await asyncio.sleep(APART_S)
    talking = [far for far in await asyncio.gather(*dialling) if far is not None]
    threads = threading.active_count() - threads_before
    await asyncio.sleep(UP_S)
    after = process.cpu_times()
    grown = process.memory_info().rss - memory
    await asyncio.gather(*(far.hangs_up() for far in talking))
    cpu_s = after.user + after.system - before.user - before.system
    answer = f"{median(delays_ms):.0f} / {max(delays_ms):.0f} ms" if delays_ms else "never"
    return (
        f"{driver.name}: {calls} calls, answered {len(delays_ms)}, median / longest {answer}, "
        f"{threads:+d} threads, {grown / calls / 1024:.0f} KiB a call, {cpu_s:.1f} CPU s"
    )


async def main(stack: str, calls: int) -> None:
    module, name = DRIVERS[stack]
    driver = getattr(import_module(module), name)()
    async with nats_server() as server, world(server, driver, capacity=1000) as made:
        print(await measure(made, driver, calls))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
