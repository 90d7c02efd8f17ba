"""An HTTP server of a test's own, on a free port of loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


def app_of(*routes: web.AbstractRouteDef, **options: Any) -> web.Application:
    """An application with these routes."""
    application = web.Application(**options)
    application.add_routes(routes)
    return application


@asynccontextmanager
async def serving(application: web.Application, **options: Any) -> AsyncIterator[str]:
    """Serve it; yields the URL, without a path. `options` are those of `web.AppRunner`."""
    runner = web.AppRunner(application, access_log=None, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
