"""Voices of this machine, for offline use: piper where a voice file is named, else espeak-ng.

A process per text: the text goes in by standard input (a command line is public), the audio comes back at once and
complete. Nothing of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from libs.audio.wav import WavError, read_wav
from services.ai_session.backends.port import UsageCounted
from services.ai_session.voices.any_rate import converted
from services.ai_session.voices.port import Chunk, Sound, VoiceError

AT_A_TIME = 2  # processes of all voices of a worker
WITHIN_S = 15.0
WORDS_PER_MINUTE = 175  # espeak-ng's own default


class NoLocalVoiceError(ValueError):
    """This machine has no program that speaks; the sentence says what to install or set."""


@dataclass(frozen=True, slots=True)
class Program:
    """How a text becomes audio here. `rate_hz` is of raw output; None: it writes a WAV."""

    name: str
    path: str
    voice_file: Path | None = None
    rate_hz: int | None = None

    def command(self, sound: Sound) -> Sequence[str]:
        """The process for one text."""
        if self.voice_file is not None:
            scale = f"{1 / sound.speed:.3f}"
            return (self.path, "--model", str(self.voice_file), "--length-scale", scale, "--output-raw")
        speed = str(round(WORDS_PER_MINUTE * sound.speed))
        voice = sound.voice or sound.language or "de"
        return (self.path, "-v", voice, "-s", speed, "-b", "1", "--stdin", "--stdout")


def find_program(piper_voice: Path | None, path: str | None = None) -> Program:
    """The program that speaks here; `path` is searched instead of PATH.

    Raises:
        NoLocalVoiceError: there is none.
    """
    if piper_voice is not None:
        piper = shutil.which("piper", path=path)
        if piper is None:
            raise NoLocalVoiceError("PIPER_VOICE is set, but there is no program piper: install it (piper-tts)")
        return Program("piper", piper, piper_voice, _rate_of(piper_voice))
    espeak = shutil.which("espeak-ng", path=path)
    if espeak is None:
        raise NoLocalVoiceError(
            "speech.provider 'local' needs espeak-ng, or piper with PIPER_VOICE: install one of them on the worker"
        )
    return Program("espeak-ng", espeak)


def _rate_of(voice_file: Path) -> int:
    """piper keeps a voice's description beside it."""
    description = voice_file.with_name(voice_file.name + ".json")
    try:
        return int(json.loads(description.read_text("utf-8"))["audio"]["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError):
        raise NoLocalVoiceError(f"PIPER_VOICE: {description} does not tell the voice's sample rate") from None


class LocalVoice:
    """One voice of a program. `slots` is shared by all of them."""

    def __init__(self, program: Program, sound: Sound, slots: asyncio.Semaphore) -> None:
        self._program = program
        self._sound = sound
        self._slots = slots

    @property
    def sound(self) -> Sound:
        """See `Voice`."""
        return self._sound

    async def speak(self, text: str) -> AsyncGenerator[Chunk]:
        """See `Voice`."""
        async with self._slots:
            data = await self._run(text)
        pcm = await asyncio.to_thread(self._decode, data)
        seconds = len(pcm) / (2 * self._sound.rate_hz)
        yield Chunk(pcm, UsageCounted("speech", self._sound.model, "", {"characters": len(text)}, seconds, 0.0))

    async def close(self) -> None:
        """See `Voice`: a text's process ends with its iterator."""

    async def _run(self, text: str) -> bytes:
        name = self._program.name
        try:
            process = await asyncio.create_subprocess_exec(
                *self._program.command(self._sound),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise VoiceError("not_started", f"{name} could not be started: {error.strerror}", retry=False) from None
        try:
            async with asyncio.timeout(WITHIN_S):
                out, errors = await process.communicate(" ".join(text.split()).encode() + b"\n")
        except TimeoutError:
            raise VoiceError("timeout", f"{name} did not end within {WITHIN_S:g} s", retry=False) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            why = errors.decode(errors="replace").strip().split("\n", 1)[0]
            raise VoiceError("failed", f"{name} ended with {process.returncode}: {why}", retry=False)
        return out

    def _decode(self, data: bytes) -> bytes:
        """In a thread: a long text takes some milliseconds."""
        program, rate_hz = self._program, self._program.rate_hz
        try:
            wav = read_wav(data) if rate_hz is None else None
        except WavError as error:
            raise VoiceError("no_audio", f"{program.name} wrote no audio: {error}", retry=False) from None
        pcm, rate_hz = (wav.pcm, wav.rate_hz) if wav is not None else (data[: len(data) & ~1], rate_hz or 0)
        if not pcm:
            raise VoiceError("no_audio", f"{program.name} wrote no audio", retry=False)
        return converted(pcm, rate_hz, self._sound.rate_hz)
