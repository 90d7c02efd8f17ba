"""The service as a process: it comes up with its own permissions, and SIGTERM lets nothing hang."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

import aiohttp

from cli import checkout
from cli.ports import free_port
from libs.audio.compare import best_correlation
from tests.support.fake_recorder import FakeRecorder
from tests.support.fake_worker import FakeWorker
from tests.unit.browser_gateway.conftest import AGENT, ROUTE, Page, world
from tests.unit.browser_gateway.test_voicemail import UNSERVED, VOICE


@asynccontextmanager
async def service(server, http, drain_s):
    """The process, once it is ready, and its page's address."""
    page_port, health_port = free_port(), free_port()
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT), "NATS_URL": server.url_of("browser"),
        "BROWSER_LISTEN_PORT": str(page_port), "BROWSER_DRAIN_TIMEOUT_S": drain_s, "HEALTH_PORT": str(health_port),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.browser_gateway", env=environment, cwd="/",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _ready(http, f"http://127.0.0.1:{health_port}/readyz")
        yield process, f"http://127.0.0.1:{page_port}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _call(http, base):
    async with http.post(base + "/token", json={"to": "bestellung"}, headers={"Origin": base}) as response:
        token = (await response.json())["token"]
    page = Page(await http.ws_connect(base + "/call"))
    await page.say(type="hello", token=token)
    await page.message("answered")
    return page


async def test_the_service_starts_serves_a_call_and_drains(server):
    async with (
        world(server, AGENT, ROUTE),
        FakeWorker(server.url) as worker,
        aiohttp.ClientSession() as http,
        service(server, http, "0.2") as (process, base),
    ):
        page = await _call(http, base)
        assert (await worker.offers.get()).callee == "bestellung"
        process.send_signal(signal.SIGTERM)
        assert (await page.end())["termination"]["reason"] == "draining"
        await page.stop()
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_who_is_leaving_a_message_may_finish_it_although_no_call_is_left(server):
    async with (
        world(server, AGENT, UNSERVED),
        FakeWorker(server.url),  # without one it is not ready
        FakeRecorder(server.url) as recorder,
        aiohttp.ClientSession() as http,
        service(server, http, "20") as (process, base),
    ):
        page = await _call(http, base)
        await page.until(lambda: page.heard)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while not recorder.ticks:  # noqa: ASYNC110  a counter has no event
                await asyncio.sleep(0.01)
        await page.speak(VOICE)
        await page.leave()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert recorder.over.is_set()
        assert best_correlation(VOICE[: len(VOICE) // 2], bytes(recorder.said))[0] > 0.95


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
