"""What is heard of a live call: into a stereo WAV file, to the loudspeaker, or both. The caller left, the agent right.

The file can be played at any moment: its header is written anew every second, and at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cli.players import installed
from libs.audio.stereo import StereoTrack
from libs.audio.wav import wav_header
from libs.contracts.frame import AudioFrame, Codec

CHANNELS = 2
FRAME_MS = 20
HEADER_EVERY = 50  # frames
MOST_WAITING = 100  # frames that a slow player may be behind: 2 s
PLAYERS: tuple[tuple[str, ...], ...] = (
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-c", "2", "-r", "{rate}", "-"),
    ("paplay", "--raw", "--format=s16le", "--channels=2", "--rate={rate}"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le", "-ch_layout", "stereo",
     "-sample_rate", "{rate}", "-i", "-"),
    ("sox", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-c", "2", "-r", "{rate}", "-", "-d"),
)  # fmt: skip


def player() -> tuple[str, ...]:
    """The first program here that plays what comes on its standard input.

    Raises:
        CliError: there is none.
    """
    return installed(PLAYERS, "write it to a file with --wav FILE")


class Loudspeaker:
    """A program that plays. What it cannot take in time is dropped, the oldest first."""

    def __init__(self, argv: tuple[str, ...], told: Callable[[str], None]) -> None:
        self._argv, self._told = argv, told
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MOST_WAITING)
        self.rate_hz = 8000

    def play(self, stereo: bytes) -> None:
        """Take a piece; never waits."""
        if self._waiting.full():
            self._waiting.get_nowait()
        self._waiting.put_nowait(stereo)

    async def run(self) -> None:
        """Play until cancelled, or until the program ends."""
        first = await self._waiting.get()
        argv = [part.format(rate=self.rate_hz) for part in self._argv]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.PIPE, stdout=quiet, stderr=quiet)
        assert process.stdin is not None
        try:
            while True:
                process.stdin.write(first)
                await process.stdin.drain()
                first = await self._waiting.get()
        except (BrokenPipeError, ConnectionResetError):
            self._told(f"{argv[0]} ended by itself: nothing is played any more")
        finally:
            process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await process.wait()
            if process.returncode is None:
                process.kill()


class Hearing:
    """Both directions side by side. `frame` is what a `Listener` calls."""

    def __init__(self, file: BinaryIO | None, loudspeaker: Loudspeaker | None) -> None:
        self._file, self._loudspeaker = file, loudspeaker
        self._track: StereoTrack | None = None
        self._frames = 0
        self._data_bytes = 0

    @property
    def seconds(self) -> float:
        """How much was heard."""
        return 0.0 if self._track is None else self._data_bytes / (2 * CHANNELS * self._track.rate_hz)

    def frame(self, direction: str, frame: AudioFrame) -> None:
        """One frame of the caller (`up`) or of what they hear (`out`)."""
        track = self._track
        if track is None:
            track = self._track = StereoTrack(Codec(frame.codec).rate_hz)
            if self._loudspeaker is not None:
                self._loudspeaker.rate_hz = track.rate_hz
            if self._file is not None:
                self._file.truncate(0)
                self._write_header()
        if direction == "up":
            return track.caller(frame.payload)
        stereo = track.heard(frame.seq, frame.payload)
        if stereo:
            self._add(stereo)
        return None

    def close(self) -> None:
        """Complete the file."""
        if self._track is not None:
            self._add(self._track.rest())
        if self._file is not None:
            if self._track is not None:
                self._write_header()
            self._file.close()

    def _add(self, stereo: bytes) -> None:
        self._data_bytes += len(stereo)
        if self._loudspeaker is not None:
            self._loudspeaker.play(stereo)
        if self._file is not None:
            self._file.write(stereo)
            self._frames += 1
            if self._frames % HEADER_EVERY == 0:
                self._write_header()

    def _write_header(self) -> None:
        assert self._file is not None
        rate_hz = 8000 if self._track is None else self._track.rate_hz
        self._file.seek(0)
        self._file.write(wav_header(rate_hz, CHANNELS, self._data_bytes))
        self._file.seek(0, 2)
        self._file.flush()


def _opened(wav: Path) -> BinaryIO:
    """To be written; what is in it stays until something is heard: the same command once more, after the call has
    ended, would else leave nothing of it."""
    if wav.exists() and wav.stat().st_size:
        return wav.open("r+b")
    file = wav.open("wb")
    file.write(wav_header(8000, CHANNELS, 0))
    return file


@asynccontextmanager
async def hearing(wav: Path | None, *, play: bool, told: Callable[[str], None]) -> AsyncIterator[Hearing]:
    """A `Hearing` that is closed, and its player ended, however the block ends; `told` takes what came of it.

    Raises:
        CliError: nothing here can play.
        OSError: the file cannot be written.
    """
    loudspeaker = Loudspeaker(player(), told) if play else None
    file = None
    if wav is not None:
        file = _opened(wav)
    heard = Hearing(file, loudspeaker)
    task = asyncio.create_task(loudspeaker.run(), name="loudspeaker") if loudspeaker is not None else None
    try:
        yield heard
    finally:
        heard.close()
        where = f"{wav}: " if wav is not None else ""
        if not heard.seconds:
            told(f"{where}nothing was heard; of a call that is over `callbus play` has the recording, if there is one")
        elif wav is not None:
            told(f"{where}{heard.seconds:.1f} s, the caller left, what they heard right")
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
