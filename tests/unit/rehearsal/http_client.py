"""A rehearsal server without latencies, and clients of it."""

import contextlib
from pathlib import Path

import aiohttp
from openai import AsyncOpenAI

from libs.audio.wav import write_wav
from services.rehearsal.scenario import Scenario, load_scenarios
from services.rehearsal.server import Rehearsal
from services.rehearsal.settings import RehearsalSettings
from services.rehearsal.speech import CLIPS, read_clip

ORDER = load_scenarios(Path(__file__).parents[3] / "deploy" / "config" / "scenarios")[0]
LOUD = Scenario(
    name="loud",
    greeting="Guten Tag.",
    turns=[
        {
            "caller": "Was kostet das?",
            "steps": [{"calls": [{"tool": "price", "arguments": {"article": "4711"}}], "say": "Ich schaue nach."}],
            "answer": "Es kostet {{ price.eur }} Euro. Noch etwas?",
        },
        {"caller": "Nein danke.", "answer": "Auf Wiederhören."},
    ],
)
INSTANT = {
    "self_check": True,
    "seed": 1,
    "speed": 1e6,
    "chat_first_token_ms": 0,
    "chat_tokens_per_s": 0,
    "transcribe_ms": 0,
    "speech_first_byte_ms": 0,
}
PRICE = {
    "type": "function",
    "function": {
        "name": "price",
        "parameters": {"type": "object", "properties": {"article": {"type": "string"}}, "required": ["article"]},
    },
}


@contextlib.asynccontextmanager
async def serving(**settings):
    async with Rehearsal.start(RehearsalSettings(**{**INSTANT, **settings}), scenarios=[ORDER, LOUD]) as rehearsal:
        yield rehearsal


@contextlib.asynccontextmanager
async def openai_client(rehearsal, **options):
    async with AsyncOpenAI(api_key="any", base_url=rehearsal.base_url, max_retries=0, **options) as client:
        yield client


@contextlib.asynccontextmanager
async def http_client(rehearsal, **headers):
    headers = headers or {"Authorization": "Bearer any"}
    async with aiohttp.ClientSession(rehearsal.url, headers=headers) as http:
        yield http


def caller_clip(name):
    """PCM16 at 8 kHz of a recorded caller's turn, such as `bestellung-1`."""
    import json

    index = json.loads((CLIPS / "caller" / "index.json").read_text("utf-8"))
    return read_clip(CLIPS / "caller" / index[name]["file"])


def wav(pcm, rate_hz=8000, name="turn.wav"):
    return (name, write_wav(pcm, rate_hz), "audio/wav")
