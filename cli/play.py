"""`callbus play`: the recording of a stored call, to the loudspeaker or into a file."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.js.errors import NotFoundError
from rich.console import Console

from cli.bus import bus_address, connected, query
from cli.errors import CliError
from cli.players import installed
from cli.queries import TRANSCRIPT_STORE
from cli.settings import CliSettings
from cli.tap import require_name
from libs.audio.wav import Wav, read_wav, write_wav
from libs.contracts import subjects

RECORDER = "recorder"
PLAYERS = (
    ("pw-play",),
    ("paplay",),
    ("aplay", "-q"),
    ("afplay",),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"),
    ("sox", "-q", "{}", "-d"),
)


LEAST_TOLD_S = 0.1  # of a gap between two parts


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """What `callbus play` does with the audio."""

    out: Path | None = None  # None: play it
    as_json: bool = False  # where it is, instead


async def play(console: Console, settings: CliSettings, nats: str | None, wanted: str, options: PlayOptions) -> Any:
    """Fetch every part of a call's recording and play it, or write it to `out`.

    Returns what `--json` prints, else None.

    Raises:
        CliError: there is no recording, or nothing here can play it.
    """
    require_name(wanted)
    async with connected(bus_address(nats, settings)) as client:
        answer = await query(client, TRANSCRIPT_STORE, "get", call=wanted)
        call, parts = answer["conversation"]["call"], answer["recordings"]
        if not parts:
            raise CliError(await _why_none(client, call, answer["conversation"]))
        if options.as_json:
            return parts
        wavs = [read_wav(await _fetch(client, part["key"])) for part in parts]
    whole = _joined(wavs)
    seconds = whole.duration_ms / 1000
    if (missing_s := _between(parts, wavs)) >= LEAST_TOLD_S:
        console.print(f"{missing_s:.1f} s between its {len(parts)} parts were not recorded", style="dim")
    if options.out is not None:
        options.out.write_bytes(write_wav(whole.pcm, whole.rate_hz, whole.channels))
        console.print(f"{options.out}: {seconds:.1f} s, the caller left, what they heard right", soft_wrap=True)
        return None
    player = installed(PLAYERS, "write the recording to a file with --out FILE")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(write_wav(whole.pcm, whole.rate_hz, whole.channels))
        file.flush()
        console.print(
            f"{call}: {seconds:.1f} s, the caller left, what they heard right (Ctrl-C ends it)", soft_wrap=True
        )
        argv = [part.replace("{}", file.name) for part in player]
        process = await asyncio.create_subprocess_exec(*argv, *([] if "{}" in player else [file.name]))
        if await process.wait():
            raise CliError(f"{player[0]} could not play it; write it to a file with --out FILE")
    return None


async def _why_none(client: Client, call: str, conversation: dict[str, Any]) -> str:
    if conversation.get("ended_at") is None:
        return f"call {call} is still going on: its recording can be had when it has ended"
    with suppress(NotFoundError):
        subject = subjects.event(conversation["org"], call, "call.recording")
        await client.jetstream().get_last_msg(subjects.EVENTS_STREAM, subject)
        return (
            f"call {call} was recorded, and nothing of it is stored so far: `callbus doctor` tries the object store, "
            "the recorder's log tells what became of it"
        )
    return f"call {call} was not recorded: set `recording: on` in its agent, or `callbus record` while it lasts"


async def _fetch(client: Client, key: str) -> bytes:
    pieces, offset = [], 0
    while True:
        answer = await query(client, RECORDER, "read", key=key, offset=offset)
        piece = base64.b64decode(answer["base64"])
        pieces.append(piece)
        if answer["next"] is None:
            return b"".join(pieces)
        offset = int(answer["next"])


def _between(parts: list[dict[str, Any]], wavs: list[Wav]) -> float:
    """Seconds that no part has: from one recorder's end to the next one's beginning."""
    began = [datetime.fromisoformat(part["started_at"]) for part in parts]
    ended = [at + timedelta(milliseconds=wav.duration_ms) for at, wav in zip(began, wavs, strict=True)]
    return sum(max(0.0, (after - before).total_seconds()) for before, after in zip(ended[:-1], began[1:], strict=True))


def _joined(wavs: list[Wav]) -> Wav:
    """Parts one after the other; the time between two of them is not in it."""
    if any((wav.rate_hz, wav.channels) != (wavs[0].rate_hz, wavs[0].channels) for wav in wavs):
        raise CliError("the parts of this recording have different rates: `--json` tells where each one is")
    return Wav(b"".join(wav.pcm for wav in wavs), wavs[0].rate_hz, wavs[0].channels)
