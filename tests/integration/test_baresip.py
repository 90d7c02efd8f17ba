"""baresip, a softphone of other people's making, calls the sample agent and records what it hears."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cli.ports import free_port
from libs.audio.compare import best_correlation
from libs.audio.wav import read_wav, write_wav
from libs.contracts.events import AgentTurn, CallEnded
from libs.contracts.termination import Reason
from tests.integration.peers import free_udp_ports, require, sample_documents
from tests.support.platform import Platform, platform

pytestmark = [pytest.mark.peer, pytest.mark.timeout(120)]

MODULES = Path("/usr/lib/baresip/modules")
CONFIG = """\
sip_listen 127.0.0.1:{sip_port}
audio_player aufile,{folder}/played.wav
audio_source aufile,{folder}/silence.wav
audio_alert aufile,/dev/null
audio_level no
ausrc_srate 8000
auplay_srate 8000
module_path {modules}
module stdio.so
module g711.so
module aufile.so
module sndfile.so
module_app account.so
module_app menu.so
module_app contact.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control_port}
snd_path {folder}
rtp_ports {rtp_port}-{last_rtp_port}
jitter_buffer_type fixed
jitter_buffer_delay 2-8
"""


class Baresip:
    """A running baresip, steered over its control port: netstrings of JSON, commands in, events out."""

    def __init__(self, folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.folder = folder
        self._reader, self._writer = reader, writer

    def command(self, name: str, parameters: str = "") -> None:
        """Send a command; what comes of it are events."""
        text = json.dumps({"command": name, "params": parameters}).encode()
        self._writer.write(b"%d:%s," % (len(text), text))

    async def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind."""
        while True:
            length = int((await self._reader.readuntil(b":"))[:-1])
            message: dict[str, Any] = json.loads((await self._reader.readexactly(length + 1))[:-1])
            if message.get("type") == kind:
                return message
            assert message.get("type") != "CALL_CLOSED", f"the call ended: {message}"

    def recording(self) -> bytes:
        """What was decoded from RTP, at 8 kHz."""
        (file,) = self.folder.glob("dump-*-dec.wav")
        wav = read_wav(file.read_bytes())
        assert wav.rate_hz == 8000
        return wav.pcm


@asynccontextmanager
async def baresip(folder: Path, codec: str) -> AsyncIterator[Baresip]:
    program = require("baresip")
    control_port, rtp_port = free_port(), free_udp_ports(8)
    config = CONFIG.format(
        folder=folder, modules=MODULES, sip_port=free_port(transport="udp"), control_port=control_port,
        rtp_port=rtp_port, last_rtp_port=rtp_port + 15,
    )  # fmt: skip
    (folder / "config").write_text(config)
    (folder / "accounts").write_text(f"<sip:kunde@127.0.0.1>;regint=0;audio_codecs={codec}/8000/1\n")
    (folder / "contacts").write_text("")
    (folder / "uuid").write_text(str(uuid.uuid4()))  # without a newline: it would stand in the middle of a header
    # the call ends with this file
    (folder / "silence.wav").write_bytes(write_wav(bytes(2 * 8000 * 60), 8000))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "-4", "-f", str(folder)),
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,  # kept open: at its end baresip ends
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        reader, writer = await _connect(control_port, process)
        yield Baresip(folder, reader, writer)
        writer.close()
    except BaseException:
        print((folder / "log").read_text("utf-8", "replace")[-4000:])
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _connect(port: int, process: asyncio.subprocess.Process) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None, "baresip did not start"
                await asyncio.sleep(0.05)


@pytest.fixture
async def running() -> AsyncIterator[Platform]:
    require("baresip")
    async with platform(documents=sample_documents(), workers=2, catalog=True, rehearsal=True) as started:
        yield started


async def clip_of(running: Platform, item: str) -> bytes:
    """The model's audio of one item, at 8 kHz."""
    async with aiohttp.ClientSession(running.rehearsal_url) as client:
        async with client.get("/rehearsal/sessions") as response:
            sessions = (await response.json())["sessions"]
        (session,) = [s["id"] for s in sessions if any(i["id"] == item for i in s["items"])]
        async with client.get(f"/rehearsal/sessions/{session}/items/{item}.wav") as response:
            return read_wav(await response.read()).pcm


@pytest.mark.parametrize("codec", ["pcmu", "pcma"])
async def test_it_calls_hears_the_whole_greeting_and_hangs_up(running: Platform, tmp_path: Path, codec: str) -> None:
    async with running.events() as feed, baresip(tmp_path, codec) as phone:
        async with asyncio.timeout(30):
            phone.command("dial", running.sip_uri("bestellung"))
            await phone.event("CALL_ESTABLISHED")
            (greeting,) = await feed.wait_for(AgentTurn, timeout_s=25)
            await asyncio.sleep(0.5)  # its end is in the jitter buffer
            phone.command("hangup")
            (ended,) = await feed.wait_for(CallEnded)
    assert ended.termination.reason is Reason.CALLER_HUNG_UP
    assert ended.media is not None
    assert ended.media.rtp_lost == ended.media.rtp_malformed == 0
    assert greeting.item is not None
    clip, heard = await clip_of(running, greeting.item), phone.recording()
    assert len(clip) > 2 * 8000 * 2
    correlation, _ = best_correlation(clip, heard)
    assert correlation >= 0.9
