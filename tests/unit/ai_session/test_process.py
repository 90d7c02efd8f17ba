"""The worker as a process: it starts, serves, hands over at SIGTERM and exits with 0."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from libs.contracts import subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.heartbeat import WorkerHeartbeat
from tests.support.fake_leg import FakeLeg
from tests.unit.ai_session.conftest import gateway


async def test_a_worker_process_hands_its_call_over_at_sigterm_and_exits_with_0(server):
    env = os.environ | {"NATS_URL": server.url, "LOG_FORMAT": "json"}
    async with gateway(server.url) as client:
        beats = await client.subscribe(subjects.WORKER_HEARTBEATS)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.ai_session", env=env, stderr=asyncio.subprocess.PIPE
        )
        try:
            beat = WorkerHeartbeat.model_validate_json((await beats.next_msg(timeout=10)).data)
            await beats.unsubscribe()
            assert (beat.calls, beat.capacity, beat.draining) == (0, 50, False)
            leg = FakeLeg(client, AgentConfig(name="a", backend="scripted", backend_options={"mode": "echo"}))
            await leg.start()
            assert (await leg.offer(beat.wk)).accepted
            await leg.until_ready()
            process.send_signal(signal.SIGTERM)
            await leg.until(lambda: leg.commanded("hand_over"))
            await leg.release()
            _, log = await asyncio.wait_for(process.communicate(), 5)
            assert process.returncode == 0
            assert b"Traceback" not in log
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
