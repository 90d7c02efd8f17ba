"""`GET /models` of a provider, for the tests of `callbus doctor`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.support.http import app_of, serving


@asynccontextmanager
async def model_endpoint(key: str, *models: str, status: int = 200) -> AsyncIterator[str]:
    """An endpoint that takes this key and lists these models; yields its base URL."""

    async def listed(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        return web.json_response({"data": [{"id": name} for name in models]}, status=status)

    async with serving(app_of(web.get("/v1/models", listed))) as url:
        yield f"{url}/v1"
