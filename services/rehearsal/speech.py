"""Text to speech for the stand-in: recorded clips, else espeak-ng, else noise shaped like speech."""

from __future__ import annotations

import audioop
import json
import math
import random
import shutil
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np

from libs.audio.g711 import Law
from libs.audio.resample import Resampler
from libs.audio.wav import WavError, read_wav
from services.rehearsal.speech_text import normalised, sentences

RATE_HZ = 8000
CLIPS = Path(__file__).parent / "clips"
AGENT_VOICE = "de+m3"
CALLER_VOICE = "de+f3"

_PAUSE_MS = 220  # between sentences
_MS_PER_CHARACTER = 62
_TARGET_RMS = 32768 * 10 ** (-18 / 20)
_PEAK = 30000
_CACHED_TEXTS = 256


class ClipError(ValueError):
    """A file that is not a G.711 WAV at 8 kHz."""


def silence(duration_ms: int) -> bytes:
    return bytes(2 * RATE_HZ * duration_ms // 1000)


class Speech:
    """PCM16 little-endian mono at 8 kHz for a text; the last few hundred texts are kept in memory."""

    def __init__(self, clips: Path = CLIPS, *, voice: str = AGENT_VOICE, synthesise: bool = True) -> None:
        self._clips = clips
        self._index: dict[str, str] = read_index(clips)
        self._voice = voice
        self._espeak = shutil.which("espeak-ng") if synthesise else None
        self._cache: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def pcm(self, text: str) -> bytes:
        """Speak ``text``, with a short pause between sentences."""
        parts = [self._sentence(sentence) for sentence in sentences(text)]
        return silence(_PAUSE_MS).join(parts)

    def encoded(self, text: str, audio_format: str) -> bytes:
        """``pcm(text)`` in one of the formats of ``encode``."""
        key = (text, audio_format)
        if key not in self._cache:
            self._cache[key] = encode(self.pcm(text), audio_format)
            if len(self._cache) > _CACHED_TEXTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _sentence(self, sentence: str) -> bytes:
        key = (sentence, "sentence")
        if key not in self._cache:
            self._cache[key] = self._make(sentence)
            if len(self._cache) > _CACHED_TEXTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _make(self, sentence: str) -> bytes:
        file = self._index.get(normalised(sentence))
        if file is not None:
            return read_clip(self._clips / file)
        if self._espeak is not None:
            return espeak(sentence, self._voice)
        return babble(sentence)


def read_index(clips: Path) -> dict[str, str]:
    """Text to file name, from ``index.json``; empty when there is none."""
    path = clips / "index.json"
    if not path.exists():
        return {}
    index: dict[str, str] = json.loads(path.read_text("utf-8"))
    return index


def encode(pcm: bytes, audio_format: str) -> bytes:
    """PCM16 at 8 kHz as ``audio/pcmu``, ``audio/pcma``, or ``audio/pcm`` at 24 kHz or at ``;rate=`` Hz."""
    if audio_format == "audio/pcmu":
        return Law.PCMU.encode(pcm)
    if audio_format == "audio/pcma":
        return Law.PCMA.encode(pcm)
    rate_hz = int(audio_format.partition(";rate=")[2] or 24000)
    if rate_hz == RATE_HZ:
        return pcm
    resampler = Resampler(RATE_HZ, rate_hz)
    delay_bytes = 2 * resampler.delay_samples
    upsampled = resampler.process(pcm + bytes(delay_bytes + 512))
    # The filter's delay goes, so that a position in the clip is the same at both rates.
    return upsampled[delay_bytes : delay_bytes + rate_hz // RATE_HZ * len(pcm)]


def espeak(text: str, voice: str) -> bytes:
    """Render with espeak-ng; trimmed, at the clips' level. Blocks for some 20 ms."""
    command = ["espeak-ng", "-v", voice, "-s", "155", "--stdout", text]
    output = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
    recording = read_wav(output)  # its length fields are not filled in on a pipe, which read_wav expects
    return levelled(trimmed(to_8k(recording.pcm, recording.rate_hz)))


def to_8k(pcm: bytes, rate_hz: int, channels: int = 1) -> bytes:
    """Mix and resample a whole recording at any rate, in the frequency domain (22.05 kHz has no short filter)."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64).reshape(-1, channels).mean(axis=1)
    if rate_hz == RATE_HZ or not len(samples):
        return bytes(np.rint(samples).astype("<i2").tobytes())
    spectrum = np.fft.rfft(samples)
    count = len(samples) * RATE_HZ // rate_hz
    scaled = np.fft.irfft(spectrum[: count // 2 + 1], count) * (count / len(samples))
    return np.clip(np.rint(scaled), -32768, 32767).astype("<i2").tobytes()


def babble(text: str) -> bytes:
    """Noise with a syllable rhythm, as long as the text would take; the same for the same text."""
    rng = random.Random(text)
    count = RATE_HZ * max(300, _MS_PER_CHARACTER * len(text)) // 1000
    pitch = 2 * math.pi * 130 / RATE_HZ
    syllable = 2 * math.pi * 4 / RATE_HZ
    samples = (
        int((0.35 + 0.65 * abs(math.sin(syllable * n))) * (3000 * math.sin(pitch * n) + rng.gauss(0, 2200)))
        for n in range(count)
    )
    pcm = b"".join(struct.pack("<h", max(-32768, min(32767, sample))) for sample in samples)
    return levelled(pcm)


def trimmed(pcm: bytes, *, keep_ms: int = 20, floor_dbfs: float = -45.0) -> bytes:
    """Without silence at either end, save ``keep_ms``."""
    window = 2 * RATE_HZ // 100
    floor = 32768 * 10 ** (floor_dbfs / 20)
    loud = [i for i in range(0, len(pcm) - window + 1, window) if audioop.rms(pcm[i : i + window], 2) > floor]
    if not loud:
        return pcm
    keep = 2 * RATE_HZ * keep_ms // 1000
    return pcm[max(0, loud[0] - keep) : loud[-1] + window + keep]


def levelled(pcm: bytes) -> bytes:
    """At -18 dBFS RMS, or as near as the peaks allow without clipping."""
    rms, peak = audioop.rms(pcm, 2), audioop.max(pcm, 2)
    if not rms:
        return pcm
    return audioop.mul(pcm, 2, min(_TARGET_RMS / rms, _PEAK / peak))


def read_clip(path: Path) -> bytes:
    """PCM16 of a WAV (PCM or G.711) at 8 kHz, mono. Raises ClipError."""
    try:
        clip = read_wav(path.read_bytes())
    except WavError as error:
        raise ClipError(f"{path}: {error}") from error
    if (clip.rate_hz, clip.channels) != (RATE_HZ, 1):
        raise ClipError(f"{path}: {clip.channels} channels at {clip.rate_hz} Hz, not one at {RATE_HZ}")
    return clip.pcm


def write_clip(path: Path, pcm: bytes) -> None:
    """Write PCM16 at 8 kHz as a mu-law WAV (format tag 7), half the size."""
    ulaw = Law.PCMU.encode(pcm)
    fmt = struct.pack("<HHIIHHH", 7, 1, RATE_HZ, RATE_HZ, 1, 8, 0)
    fact = struct.pack("<I", len(ulaw))  # required of formats other than PCM
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
        for name, body in ((b"fmt ", fmt), (b"fact", fact), (b"data", ulaw))
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
