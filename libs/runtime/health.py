"""`/healthz` (the process runs), `/readyz` (it can take work; else 503 with the reasons) and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from libs.runtime.metrics import page

Check = Callable[[], str | None]


class HealthServer:
    """Serves the three pages on one address; `checks` return None or a sentence saying what is wrong."""

    def __init__(self, host: str, port: int, service: str, process_id: str) -> None:
        self._host, self._port = host, port
        self._identity = {"service": service, "id": process_id}
        self.checks: dict[str, Check] = {}
        self._runner: web.AppRunner | None = None
        self.port = port

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application()
        app.add_routes(
            [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response(self._identity | {"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = {name: problem for name, check in self.checks.items() if (problem := check())}
        body = self._identity | {"status": "not ready" if problems else "ready", "problems": problems}
        return web.json_response(body, status=503 if problems else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        parts = []
        for part in page():
            parts.append(part)
            await asyncio.sleep(0)  # the page as a whole would be heard: see `page`
        return web.Response(body=b"".join(parts), headers={"Content-Type": CONTENT_TYPE_LATEST})
