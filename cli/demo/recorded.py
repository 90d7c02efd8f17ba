"""What the model said according to the rehearsal's records, found for each of the agent's turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import aiohttp

from cli.demo.checks import RATE_HZ, Said
from libs.audio.resample import Resampler
from libs.audio.wav import read_wav
from libs.contracts.agent import Backend
from libs.contracts.events import AgentTurn

SPEECH_HZ = 24_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """One item of a model's session, or one piece of text that was turned into speech."""

    item: str
    said: Said


async def recorded_turns(rehearsal_url: str, backend: Backend, turns: Sequence[AgentTurn]) -> dict[str, Said]:
    """What was said in each of these turns, by the turn's item."""
    async with aiohttp.ClientSession(rehearsal_url) as client:
        match backend:
            case "pipeline":
                return by_pieces(turns, await _spoken(client))
            case "live":
                return by_words(turns, await _items(client))
            case _:
                return by_name(turns, await _items(client))


def by_name(turns: Iterable[AgentTurn], recorded: Sequence[Recorded]) -> dict[str, Said]:
    """Of a backend whose items have names."""
    wanted = {turn.item for turn in turns}
    return {one.item: one.said for one in recorded if one.item in wanted}


def by_words(turns: Iterable[AgentTurn], recorded: Sequence[Recorded]) -> dict[str, Said]:
    """Of one that has none: the next items whose words, put together, are the turn's or its beginning."""
    found: dict[str, Said] = {}
    left = list(recorded)
    for turn in turns:
        start = next((at for at, one in enumerate(left) if one.said.text and turn.text.startswith(one.said.text)), None)
        if start is None:
            continue
        words, end = left[start].said.text, start + 1
        while end < len(left) and turn.text.startswith(f"{words} {left[end].said.text}"):
            words, end = f"{words} {left[end].said.text}", end + 1
        # Between two items there are pauses of any length: only the first one has a known place in time.
        found[turn.item] = Said(words, left[start].said.audio, paced=True)
        del left[start:end]
    return found


def by_pieces(turns: Iterable[AgentTurn], recorded: Sequence[Recorded]) -> dict[str, Said]:
    """Of one that speaks piece by piece, and keeps what it has rendered: a piece may be an old one."""
    audio = {one.said.text: one.said.audio for one in recorded}
    longest_first = sorted(filter(None, audio), key=len, reverse=True)
    found: dict[str, Said] = {}
    for turn in turns:
        rest, first = turn.text, b""
        while piece := next((piece for piece in longest_first if rest.startswith(piece)), None):
            first = first or audio[piece]
            rest = rest[len(piece) :].lstrip()
        if first:
            found[turn.item] = Said(turn.text[: len(turn.text) - len(rest)].rstrip(), first)
    return found


async def _items(client: aiohttp.ClientSession) -> list[Recorded]:
    """All that the models of all sessions said."""
    async with client.get("/rehearsal/sessions") as response:
        sessions = (await response.json())["sessions"]
    recorded: list[Recorded] = []
    for session in sessions:
        for item in session["items"]:
            if not item["audio_ms"] or item["role"] != "assistant":
                continue
            async with client.get(f"/rehearsal/sessions/{session['id']}/items/{item['id']}.wav") as response:
                audio = read_wav(await response.read()).pcm
            recorded.append(Recorded(item["id"], Said(item["text"] or "", audio, item["truncated_at_ms"])))
    return recorded


async def _spoken(client: aiohttp.ClientSession) -> list[Recorded]:
    """All that was turned into speech. The audio is not kept: the same request gives the same again."""
    async with client.get("/rehearsal/requests", params={"endpoint": "speech"}) as response:
        requests = (await response.json())["requests"]
    recorded: list[Recorded] = []
    for request in requests:
        body = {"model": request["model"], "response_format": "pcm"} | {
            name: value for name, value in request["asked"].items() if value is not None
        }
        async with client.post("/v1/audio/speech", json=body, headers={"Authorization": "Bearer demo"}) as response:
            audio = Resampler(SPEECH_HZ, RATE_HZ).process(await response.read())
        recorded.append(Recorded(request["id"], Said(str(body.get("input", "")).strip(), audio)))
    return recorded
