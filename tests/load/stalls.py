"""What stops a process in the middle of calls: `python -m tests.load.stalls`, by default 20 calls for 40 s.

Starts nats-server, the SIP gateway and an AI worker with the scripted echo as processes. Callers speak for six seconds,
hang up and call again, one after the other, so that calls come and go all the time. Told is how late the gateway's
ticker was, how many packets had no time because of that, and how long the garbage collections of both took.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from libs.audio.tone import tone
from libs.softphone.phone import Softphone
from tests.support.platform import ECHO_AGENT, ECHO_ROUTE, Platform, platform

SPEECH = tone(400, 6000, 8000, -20)
APART_S = 0.1  # between the callers' first calls
LATE_MS = (10, 20, 50)
FULL = "2"


async def caller(running: Platform, phone: Softphone, number: int, until: float) -> None:
    """One call after the other."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(number * APART_S)
    while loop.time() < until:
        call = await phone.call(running.sip_uri("echo"), from_user=f"+49305550{number:03d}")
        await call.play(SPEECH).wait()
        await call.hang_up()


async def load(calls: int, seconds: float) -> float:
    """Place the calls; how many packets were skipped."""
    async with platform(documents=[ECHO_AGENT, ECHO_ROUTE]) as running, await Softphone.open() as phone:
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(caller(running, phone, number, until) for number in range(calls)))
        return await told(running)


async def told(running: Platform) -> float:
    async def of(process: str, name: str, **labels: str) -> float:
        return await running.metric(process, f"callbus_{name}", **labels)

    gateway, lateness = "sip_gateway", "ticker_lateness_seconds"
    slots = await of(gateway, f"{lateness}_count")
    for late_ms in LATE_MS:
        in_time = await of(gateway, f"{lateness}_bucket", le=f"{late_ms / 1000:g}")
        print(f"slots more than {late_ms} ms late: {slots - in_time:.0f} of {slots:.0f}")
    for process in (gateway, "ai_session-1"):
        count = await of(process, "garbage_collection_seconds_count", generation=FULL)
        took_s = await of(process, "garbage_collection_seconds_sum", generation=FULL)
        print(f"{process}: {count:.0f} full collections, {took_s * 1000:.0f} ms, the one at its start included")
    sent, skipped = [await of(gateway, "rtp_packets_total", event=event) for event in ("sent", "skipped")]
    print(f"packets skipped: {skipped:.0f} beside {sent:.0f}")
    return skipped


def main() -> int:
    """The exit code is 0 when no call had a hole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20, help="callers at the same time")
    parser.add_argument("--seconds", type=float, default=40.0, help="for so long calls are begun")
    options = parser.parse_args()
    return 1 if asyncio.run(load(options.calls, options.seconds)) else 0


if __name__ == "__main__":
    sys.exit(main())
