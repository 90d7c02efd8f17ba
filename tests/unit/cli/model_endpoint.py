"""`GET /models` of a provider, for the tests of `callbus doctor`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def model_endpoint(key: str, *models: str, status: int = 200) -> AsyncIterator[str]:
    """An endpoint that takes this key and lists these models; yields its base URL."""

    async def listed(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return web.json_response({"data": [{"id": name} for name in models]}, status=status)

    application = web.Application()
    application.router.add_get("/v1/models", listed)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()
