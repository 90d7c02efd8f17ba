"""`callbus play`: the parts of a recording one after the other, and why there is none."""

import asyncio
import base64
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from rich.console import Console

from cli.bus import connected
from cli.errors import CliError
from cli.play import PLAYERS, PlayOptions, play
from cli.settings import CliSettings
from libs.audio.wav import read_wav, write_wav
from libs.contracts import examples, subjects
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.runtime.streams import provision
from tests.support.nats import nats_server

CALL = examples.CALL
PIECE = 500
SETTINGS = CliSettings(_env_file=None)
EVENTS = {event.kind: event for event in examples.events()}  # type: ignore[attr-defined]


@asynccontextmanager
async def stored(*wavs: bytes, is_over: bool = True) -> AsyncIterator[tuple[str, Client]]:
    """A bus with a store that knows one call, and a recorder that has its parts in pieces of `PIECE` bytes."""
    keys = [f"recordings/default/{number}.wav" for number in range(len(wavs))]
    ended_at = "2026-11-21T12:00:00Z" if is_over else None
    conversation = {"call": CALL, "org": examples.ORG, "ended_at": ended_at}
    recordings = [{"key": key, "started_at": f"2026-11-21T11:00:0{3 * part}+00:00"} for part, key in enumerate(keys)]
    known = {"conversation": conversation, "recordings": recordings}

    async def get(message: Msg) -> None:
        await message.respond(RpcReply(ok=True, data=known).to_json())

    async def read(message: Msg) -> None:
        asked = RpcRequest.model_validate_json(message.data).parameters
        wav, offset = wavs[keys.index(asked["key"])], asked["offset"]
        after = offset + PIECE
        data: dict[str, Any] = {
            "base64": base64.b64encode(wav[offset:after]).decode(),
            "next": after if after < len(wav) else None,
        }
        await message.respond(RpcReply(ok=True, data=data).to_json())

    async with nats_server() as server, connected(server.url) as client, asyncio.timeout(20):
        await provision(client.jetstream())
        await client.subscribe(subjects.rpc("transcript_store", "get"), cb=get)
        await client.subscribe(subjects.rpc("recorder", "read"), cb=read)
        await client.flush()
        await client.flush()
        yield server.url, client


def wav(value: int, rate_hz: int = 8000) -> bytes:
    return write_wav(bytes([value, 0]) * 2 * 800, rate_hz, 2)


async def played(url: str, options: PlayOptions) -> str:
    output = io.StringIO()
    await play(Console(file=output, width=200), SETTINGS, url, "last", options)
    return output.getvalue()


async def test_all_parts_are_in_the_file_in_their_order(tmp_path: Path) -> None:
    async with stored(wav(1), wav(2)) as (url, _):
        said = await played(url, PlayOptions(out=tmp_path / "call.wav"))
    assert "0.2 s, the caller left, what they heard right" in said
    assert "2.9 s between its 2 parts were not recorded" in said
    whole = read_wav((tmp_path / "call.wav").read_bytes())
    assert (whole.channels, whole.pcm) == (2, b"\1\0" * 1600 + b"\2\0" * 1600)


async def test_parts_of_different_rates_are_not_played_as_one(tmp_path: Path) -> None:
    async with stored(wav(1), wav(1, 16000)) as (url, _):
        with pytest.raises(CliError, match="different rates"):
            await played(url, PlayOptions(out=tmp_path / "call.wav"))


async def test_the_file_goes_to_a_player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / PLAYERS[2][0]
    script.write_text(f'#!/bin/sh\n/bin/cat "$2" > {tmp_path}/heard.wav\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with stored(wav(1)) as (url, _):
        await played(url, PlayOptions())
    assert (tmp_path / "heard.wav").read_bytes() == wav(1)


async def test_without_a_player_the_sentence_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    async with stored(wav(1)) as (url, _):
        with pytest.raises(CliError, match="--out FILE"):
            await played(url, PlayOptions())


async def test_why_there_is_no_recording() -> None:
    async with stored(is_over=False) as (url, _):
        with pytest.raises(CliError, match="still going on"):
            await played(url, PlayOptions())
    async with stored() as (url, client):
        with pytest.raises(CliError, match="was not recorded: set `recording: on`"):
            await played(url, PlayOptions())
        event = EVENTS["call.recording"]
        await client.jetstream().publish(subjects.event(event.org, event.call, event.kind), event.to_json())  # type: ignore[attr-defined]
        with pytest.raises(CliError, match=r"was recorded, and nothing of it is stored so far: `callbus doctor`"):
            await played(url, PlayOptions())
