"""baresip, a softphone of other people's making: headless, steered over its control port, recording what it hears."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cli.ports import free_port, is_free
from libs.audio.wav import read_wav, write_wav
from tests.integration.peers import free_udp_ports, require

MODULES = Path("/usr/lib/baresip/modules")
CONFIG = """\
sip_listen 127.0.0.1:{sip_port}
{trusted}
audio_player aufile,{folder}/played.wav
audio_source aufile,{folder}/says.wav
audio_alert aufile,/dev/null
audio_level no
ausrc_srate {rate_hz}
auplay_srate {rate_hz}
module_path {modules}
module stdio.so
module g711.so
module g722.so
module aufile.so
module sndfile.so
module srtp.so
module_app account.so
module_app menu.so
module_app contact.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control_port}
snd_path {folder}
rtp_ports {rtp_port}-{last_rtp_port}
jitter_buffer_type fixed
jitter_buffer_delay 2-8
rtcp_mux {rtcp_mux}
"""
TAIL_S = 60
"""Silence behind what it says: the call ends with its audio file."""


@dataclass(frozen=True)
class Account:
    """Who it is and how it speaks. Without `password` it registers nowhere; `port` is the provider's."""

    user: str
    password: str = ""
    port: int = 0
    transport: Literal["udp", "tls"] = "udp"
    codec: Literal["pcma", "pcmu", "G722"] = "pcma"
    srtp: Literal["", "srtp", "srtp-mand"] = ""
    answers: bool = False
    rtcp_mux: bool = False

    @property
    def rate_hz(self) -> int:
        """Of what it says and hears."""
        return 16000 if self.codec == "G722" else 8000

    def line(self) -> str:
        """As baresip's `accounts` file has it."""
        parts = [f"<sip:{self.user}@127.0.0.1>", "regint=0"]
        if self.password:
            address = f"<sip:{self.user}@127.0.0.1:{self.port};transport={self.transport}>"
            parts = [address, f"auth_user={self.user}", f"auth_pass={self.password}", "regint=300"]
        parts += [f"audio_codecs={self.codec}/{self.rate_hz}/1"]
        parts += [f"mediaenc={self.srtp}"] if self.srtp else []
        parts += ["answermode=auto"] if self.answers else []
        return ";".join(parts) + "\n"


class Baresip:
    """A running baresip: netstrings of JSON, commands in, events out."""

    def __init__(
        self, account: Account, folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.account = account
        self._folder = folder
        self._reader, self._writer = reader, writer
        self._unread: list[dict[str, Any]] = []

    def command(self, name: str, parameters: str = "") -> None:
        """Send a command; what comes of it are events."""
        text = json.dumps({"command": name, "params": parameters}).encode()
        self._writer.write(b"%d:%s," % (len(text), text))

    def dial(self, number: str) -> None:
        """Call a number of the provider."""
        account = self.account
        self.command("dial", f"sip:{number}@127.0.0.1:{account.port};transport={account.transport}")

    async def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind; what came before it stays for who asks for it later."""
        while True:
            for index, message in enumerate(self._unread):
                if message.get("type") == kind:
                    return self._unread.pop(index)
            length = int((await self._reader.readuntil(b":"))[:-1])
            message = json.loads((await self._reader.readexactly(length + 1))[:-1])
            assert message.get("ok", True), f"baresip refused a command: {message}"
            self._unread.append(message)
            over = message.get("type") == "CALL_CLOSED" and kind.startswith("CALL_") and kind != "CALL_CLOSED"
            assert not over, f"the call ended: {message}"

    async def recordings(self) -> list[bytes]:
        """What was decoded from RTP, at the account's rate: one for each call that ended, the first call first."""
        async with asyncio.timeout(5):
            while not all(heard := self._recordings()):  # noqa: ASYNC110  a file gets its length when it is closed
                await asyncio.sleep(0.05)
        return heard

    def _recordings(self) -> list[bytes]:
        found = []
        for file in sorted(self._folder.glob("dump-*-dec.wav")):
            wav = read_wav(file.read_bytes())
            assert wav.rate_hz == self.account.rate_hz
            found.append(wav.pcm)
        return found

    async def recording(self) -> bytes:
        """What was heard in its only call."""
        (heard,) = await self.recordings()
        return heard

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self._folder / "log").read_text("utf-8", "replace")


@asynccontextmanager
async def baresip(
    folder: Path, account: Account, *, says: bytes = b"", trusted: Path | None = None
) -> AsyncIterator[Baresip]:
    """Run one. It says `says` (16 bit at the account's rate) in each call, then nothing.

    Yields when it takes commands, and when it is registered if it has a password.
    """
    program = require("baresip")
    control_port, rtp_port = free_port(), free_udp_ports(8)
    config = CONFIG.format(
        folder=folder, modules=MODULES, sip_port=_sip_port(), control_port=control_port,
        rtp_port=rtp_port, last_rtp_port=rtp_port + 15, rate_hz=account.rate_hz,
        rtcp_mux="yes" if account.rtcp_mux else "no", trusted="" if trusted is None else f"sip_cafile {trusted}",
    )  # fmt: skip
    (folder / "config").write_text(config)
    (folder / "accounts").write_text(account.line())
    (folder / "contacts").write_text("")
    (folder / "uuid").write_text(str(uuid.uuid4()))  # without a newline: it would stand in the middle of a header
    silence = bytes(2 * account.rate_hz * TAIL_S)
    (folder / "says.wav").write_bytes(write_wav(says + silence, account.rate_hz))
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
        phone = Baresip(account, folder, reader, writer)
        if account.password:
            await _registered(phone)
        yield phone
        writer.close()
    except BaseException:
        print(f"{account.user}:\n{(folder / 'log').read_text('utf-8', 'replace')[-4000:]}")
        raise
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


def _sip_port() -> int:
    """It listens on UDP and TCP, and for TLS one port higher."""
    while True:
        port = free_port(transport="udp")
        if is_free(port, "127.0.0.1", "tcp") and is_free(port + 1, "127.0.0.1", "tcp"):
            return port


async def _connect(port: int, process: asyncio.subprocess.Process) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None, "baresip did not start"
                await asyncio.sleep(0.05)


async def _registered(phone: Baresip) -> None:
    """It may have registered before anybody listened for its events: its log tells, too."""
    async with asyncio.timeout(10):
        while "200 OK" not in phone.log:  # noqa: ASYNC110  a file tells of no change
            await asyncio.sleep(0.05)
