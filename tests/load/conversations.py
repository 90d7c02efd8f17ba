"""Many conversations on one worker: `python -m tests.load.conversations`, by default 50 with Realtime for 30 s.

Starts nats-server, the rehearsal server and an AI worker as processes; the callers are in this one and talk to the
worker over the bus, as gateways do. Each speaks for half a second, hears the answer out, and speaks again. Told are the
turns that were answered, how long the callers waited, and what the worker needed of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter

import nats
import psutil
from nats.aio.client import Client

from libs.audio.tone import tone
from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.heartbeat import WorkerHeartbeat
from tests.support.fake_leg import FakeLeg
from tests.support.nats import nats_server
from tests.support.rehearsal import rehearsal_process

FRAME_S = 0.02
SPEECH = tone(300, 500, 8000, -15)
AUDIBLE = 500  # of 32768
LISTENS_S = 1.0  # to silence after an answer, before the next turn
GIVES_UP_S = 15.0  # waiting for an answer
SCENARIO = {
    "name": "load",
    "greeting": "Guten Tag.",
    "repeat": True,
    "turns": [{"caller": "Eine Frage.", "answer": "Das ist die Antwort."}],
}


class Caller:
    """One conversation, from what its leg plays."""

    def __init__(self, leg: FakeLeg, counts: Counter[str], waits_s: list[float]) -> None:
        self.leg, self._counts, self._waits_s = leg, counts, waits_s
        self._say = b""
        self._asked_at: float | None = None
        self._heard_at = 0.0
        self._heard = 0

    async def frame(self, now: float) -> None:
        """20 ms of the call."""
        piece, self._say = self._say[:320], self._say[320:]
        await self.leg.tick(piece or None)
        news, self._heard = self.leg.heard[self._heard :], len(self.leg.heard)
        if news and max(abs(sample) for sample in memoryview(news).cast("h")) > AUDIBLE:
            if self._asked_at is not None and not self._say:
                self._waits_s.append(now - self._asked_at)
                self._counts["answered"] += 1
                self._asked_at = None
            self._heard_at = now
        if self._asked_at is not None and now - self._asked_at > GIVES_UP_S:
            self._counts["unanswered"] += 1
            self._asked_at, self._heard_at = None, now
        if self._asked_at is None and self._heard_at and now - self._heard_at > LISTENS_S:
            self._say, self._asked_at = SPEECH, now + len(SPEECH) / 16000
            self._counts["turns"] += 1


def quantiles(values: list[float]) -> str:
    """Median, 95 % and longest, in ms."""
    ordered = sorted(values) or [0.0]
    return " / ".join(
        f"{1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))]:.0f}" for part in (0.5, 0.95, 1)
    )


async def converse(client: Client, worker: psutil.Process, backend: str, calls: int, seconds: float) -> bool:
    """Hold the conversations and tell what became of them; False when a turn was not answered or a call was lost."""
    beats = await client.subscribe(subjects.WORKER_HEARTBEATS)
    wk = WorkerHeartbeat.model_validate_json((await beats.next_msg(timeout=20)).data).wk
    agent = AgentConfig(name="load", backend=backend, prompt="[scenario: load]", greeting="Guten Tag.")
    counts: Counter[str] = Counter()
    waits_s: list[float] = []
    callers: list[Caller] = []
    began, cpu, latest_s = 0.0, 0.0, 0.0
    due = start = time.monotonic()
    joining_s = max(3.0, calls / 10)  # they do not call in chorus
    while (now := time.monotonic()) - start < joining_s + seconds:
        if len(callers) < calls and now - start >= joining_s * len(callers) / calls:
            leg = FakeLeg(client, agent)
            await leg.start()
            counts["accepted"] += (await leg.offer(wk)).accepted
            callers.append(Caller(leg, counts, waits_s))
        if not began and now - start >= joining_s:
            began, times = now, worker.cpu_times()
            cpu = times.user + times.system
        latest_s = max(latest_s, now - due)
        for caller in callers:
            await caller.frame(now)
        due = max(due + FRAME_S, now - 0.5)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    times, wall_s = worker.cpu_times(), time.monotonic() - began
    failures = Counter(each.detail for caller in callers for each in caller.leg.commanded("failed"))
    failed = sum(failures.values())
    for caller in callers:
        await caller.leg.release()
    print(f"{calls} calls with {backend}, {wall_s:.0f} s: {dict(counts)}, {failed} given back {dict(failures) or ''}")
    print(f"end of turn to the first sound of the answer, ms (median / 95 % / longest): {quantiles(waits_s)}")
    print(
        f"worker: {100 * (times.user + times.system - cpu) / wall_s:.0f} % of a core, "
        f"{worker.memory_info().rss / 1e6:.0f} MB; the latest frame of the callers: {1000 * latest_s:.0f} ms"
    )
    return counts["accepted"] == calls and not failed and not counts["unanswered"] and counts["answered"] >= calls


async def run(backend: str, calls: int, seconds: float) -> bool:
    """Start the processes and hold the conversations."""
    async with rehearsal_process(SCENARIO) as url, nats_server() as server:
        settings = {"NATS_URL": server.url, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "k"}
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.ai_session"),
            env=os.environ | settings | {"WORKER_CAPACITY": str(calls)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            client = await nats.connect(server.url, pending_size=-1)
            try:
                return await converse(client, psutil.Process(worker.pid), backend, calls, seconds)
            finally:
                await client.close()
        finally:
            worker.terminate()
            await worker.wait()


def main() -> int:
    """The exit code is 0 when every turn of every call was answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("realtime", "live", "pipeline"), default="realtime")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    chosen = parser.parse_args()
    calls, seconds = min(chosen.calls, 200), min(chosen.seconds, 300.0)
    return 0 if asyncio.run(run(chosen.backend, calls, seconds)) else 1


if __name__ == "__main__":
    sys.exit(main())
