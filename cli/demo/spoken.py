"""What the rehearsal's voice spoke over HTTP: it is asked again, since it says the same words the same way."""

from __future__ import annotations

import asyncio

import aiohttp

from cli.programs import REHEARSAL_KEY
from libs.audio.resample import Resampler

VOICE_HZ = 24_000
CALL_HZ = 8_000


async def spoken_pieces(client: aiohttp.ClientSession) -> dict[str, bytes]:
    """Every text that was spoken, with its audio as PCM16LE at the call's rate, as long as a worker made it."""
    async with client.get("/rehearsal/requests", params={"endpoint": "speech"}) as response:
        requests = (await response.json())["requests"]
    texts = sorted({str(request["asked"]["input"]) for request in requests})
    return dict(zip(texts, await asyncio.gather(*(_spoken(client, text) for text in texts)), strict=True))


async def _spoken(client: aiohttp.ClientSession, text: str) -> bytes:
    body = {"model": "gpt-4o-mini-tts", "voice": "marin", "input": text, "response_format": "pcm"}
    async with client.post(
        "/v1/audio/speech", json=body, headers={"Authorization": f"Bearer {REHEARSAL_KEY}"}
    ) as response:
        response.raise_for_status()
        pcm = await response.read()
    converter = Resampler(VOICE_HZ, CALL_HZ)
    held_back = bytes(2 * converter.delay_samples * VOICE_HZ // CALL_HZ)  # a worker sends the converter's rest, too
    return converter.process(pcm[: len(pcm) & ~1]) + converter.process(held_back)
