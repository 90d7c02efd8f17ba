"""What callers say in tests, and where of it each second was heard."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from cli import checkout
from libs.audio.compare import best_correlation
from libs.audio.wav import read_wav

CLIPS = checkout.ROOT / "services" / "rehearsal" / "clips" / "caller"
SECTION_BYTES = 2 * 8000
MARGIN_BYTES = 2 * 4000


@cache
def the_speech() -> bytes:
    """6 s of speech that is not on the codec's grid: the clips are G.711, so they are slowed down and scaled."""
    pcm = b"".join(read_wav(path.read_bytes()).pcm for path in sorted(CLIPS.glob("*.wav")))
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    slowed = np.interp(np.arange(6 * 8000) * 0.97, np.arange(len(samples)), samples)
    return np.rint(0.77 * slowed).astype("<i2").tobytes()


def sections(sent: bytes, heard: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each second of what was sent, with what was heard around its time."""
    _, lag = best_correlation(sent, heard)
    for start in range(0, len(sent) - SECTION_BYTES + 1, SECTION_BYTES):
        at = start + 2 * lag
        yield sent[start : start + SECTION_BYTES], heard[max(0, at - MARGIN_BYTES) : at + SECTION_BYTES + MARGIN_BYTES]
