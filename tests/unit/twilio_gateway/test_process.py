"""The gateway as a process with the bus permissions that callbus ships: it starts, takes a call, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import aiohttp
import pytest

from cli.ports import free_port
from libs.contracts import subjects
from libs.runtime.bus import Bus
from libs.runtime.streams import bucket, provision
from tests.support.fake_worker import FakeWorker
from tests.unit.twilio_gateway.conftest import AGENT, PUBLIC_URL, ROUTE
from tests.unit.twilio_gateway.twilio import ACCOUNT, AUTH_TOKEN, FakeTwilio


async def started(server, **environment: str) -> asyncio.subprocess.Process:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TWILIO", "PUBLIC"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.twilio_gateway", env=env | {"NATS_URL": server.url_of("gateway")} | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def ready(url: str, limit_s: float = 20) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(limit_s):
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_without_an_auth_token_it_says_so_and_does_not_start(server):
    process = await started(server, TWILIO_ACCOUNT_SID=ACCOUNT, PUBLIC_URL=PUBLIC_URL)
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"TWILIO_AUTH_TOKEN is not set" in output


@pytest.mark.parametrize("drain_s", ["600", "0"])
async def test_told_to_stop_it_lets_calls_finish_and_answers_twilio_to_the_last(server, drain_s):
    bus = await Bus.connect(server.url, "test")
    await provision(bus.js)
    store = await bucket(bus.js, subjects.KV_CONFIG)
    for document in (AGENT, ROUTE):
        await store.put(document.key, document.to_json())
    health, port = free_port(), free_port()
    async with FakeTwilio(PUBLIC_URL) as twilio, FakeWorker(server.url) as worker:
        twilio.connect_url = f"http://127.0.0.1:{port}"
        process = await started(
            server, TWILIO_ACCOUNT_SID=ACCOUNT, TWILIO_AUTH_TOKEN=AUTH_TOKEN, TWILIO_API_BASE_URL=twilio.api_url,
            PUBLIC_URL=PUBLIC_URL, TWILIO_LISTEN_PORT=str(port), HEALTH_PORT=str(health), TWILIO_FROM="+4930555000",
            DRAIN_TIMEOUT_S=drain_s,
        )  # fmt: skip
        try:
            await ready(f"http://127.0.0.1:{health}/readyz")
            call = await twilio.incoming().ring()
            offer = await worker.offers.get()
            await call.until(lambda: call.marks)
            worker.says(offer, 0)
            await call.until(lambda: any(frame != b"\xff" * 160 for frame in call.heard))
            process.send_signal(signal.SIGTERM)
            if drain_s == "0":
                await call.until(lambda: call.is_over)
                assert call.verbs == ["Connect", "Redirect", "Hangup"]
            else:
                await asyncio.sleep(0.3)
                assert process.returncode is None
                await call.hang_up()
            output, _ = await asyncio.wait_for(process.communicate(), 10)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0
    assert b"Permissions Violation" not in output
    assert b"Traceback" not in output
    await bus.close()
