"""Speech providers over loopback, with what they do wrong: slow, refusing, breaking off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.http import app_of, serving


@dataclass
class SpeechProvider:
    """Any path answers with `audio` in chunks of an odd length, or with a refusal."""

    audio: bytes = b""
    chunk_bytes: int = 1111
    refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    headers_wait_s: float = 0.0
    stall_after_bytes: int | None = None  # sends so much, then nothing for ever
    break_after_bytes: int | None = None
    release: asyncio.Event | None = None  # the body waits for it
    requests: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cut_off: asyncio.Event = field(default_factory=asyncio.Event)  # the client went away
    url: str = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.queries.append(dict(request.query))
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if self.refusals:
            status, body, headers = self.refusals.pop(0)
            return web.json_response(body, status=status, headers=headers)
        try:
            await asyncio.sleep(self.headers_wait_s)
            return await self._stream(request)
        except (ConnectionError, asyncio.CancelledError):
            self.cut_off.set()
            raise

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for at in range(0, len(self.audio), self.chunk_bytes):
            if self.break_after_bytes is not None and at >= self.break_after_bytes:
                assert request.transport is not None
                request.transport.abort()
                return response
            if self.stall_after_bytes is not None and at >= self.stall_after_bytes:
                await asyncio.Event().wait()
            await response.write(self.audio[at : at + self.chunk_bytes])
            if self.release is not None:
                await self.release.wait()
        await response.write_eof()
        return response


@asynccontextmanager
async def speech_provider(audio: bytes) -> AsyncIterator[SpeechProvider]:
    provider = SpeechProvider(audio)
    app = app_of(web.post("/{path:.*}", provider.serve))
    async with serving(app, handler_cancellation=True, shutdown_timeout=0.1) as provider.url:
        yield provider
