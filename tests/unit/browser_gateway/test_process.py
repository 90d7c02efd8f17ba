"""The service as a process: it comes up with its own permissions, and SIGTERM lets nothing hang."""

import asyncio
import os
import signal
import sys

import aiohttp

from cli import checkout
from cli.ports import free_port
from tests.support.fake_worker import FakeWorker
from tests.unit.browser_gateway.conftest import AGENT, ROUTE, Page, world


async def test_the_service_starts_serves_a_call_and_drains(server):
    page_port, health_port = free_port(), free_port()
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT), "NATS_URL": server.url_of("browser"),
        "BROWSER_LISTEN_PORT": str(page_port), "BROWSER_DRAIN_TIMEOUT_S": "0.2", "HEALTH_PORT": str(health_port),
    }  # fmt: skip
    async with world(server, AGENT, ROUTE), FakeWorker(server.url) as worker, aiohttp.ClientSession() as http:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.browser_gateway", env=environment, cwd="/",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await _ready(http, f"http://127.0.0.1:{health_port}/readyz")
            base = f"http://127.0.0.1:{page_port}"
            async with http.post(base + "/token", json={"to": "bestellung"}, headers={"Origin": base}) as response:
                token = (await response.json())["token"]
            page = Page(await http.ws_connect(base + "/call"))
            await page.say(type="hello", token=token)
            await page.message("answered")
            assert (await worker.offers.get()).callee == "bestellung"
            process.send_signal(signal.SIGTERM)
            assert (await page.end())["termination"]["reason"] == "draining"
            await page.stop()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _ready(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)
