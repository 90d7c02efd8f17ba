"""Recognises the recorded callers' turns, which is all that this server can know about what was said.

Theory of operation. Audio is described by the level of eight frequency bands every 10 ms, in decibels above a
floor 40 dB below its loudest frame: level, sampling rate and G.711 hardly change that. The description of a clip is
slid along that of the audio, and the best normalised correlation tells whether they are the same words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.rehearsal.speech import RATE_HZ, read_clip

_Bands = npt.NDArray[np.float64]
_Places = npt.NDArray[np.intp]

_WINDOW = RATE_HZ * 20 // 1000
_HOP = RATE_HZ * 10 // 1000
_EDGES_HZ = (100, 250, 400, 600, 850, 1200, 1700, 2400, 3400)
_RANGE_DB = 40.0
_SILENCE_DBFS = -50.0
_SHORTEST_WORD = 12  # frames: a click or a knock is shorter
_STEADY_DB = 1.6  # noise and tones vary less than this from frame to frame, speech several times as much
_SAME = 0.75
_SHORTEST_OVERLAP = 0.35  # of a clip: a turn that was cut in two is still recognised


@dataclass(frozen=True, slots=True)
class CallerTurn:
    """What a caller says, and where: turn ``number`` of a scenario."""

    scenario: str
    number: int
    text: str
    score: float = 1.0


class CallerClips:
    """The recordings in a folder with an ``index.json`` (name, such as ``bestellung-1``, to text and file)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _known(self) -> list[tuple[CallerTurn, _Bands]]:
        path = self._folder / "index.json"
        index = json.loads(path.read_text("utf-8")) if path.exists() else {}
        known = []
        for name, entry in index.items():
            scenario, _, number = name.rpartition("-")
            turn = CallerTurn(scenario, int(number), entry["text"])
            known.append((turn, _trimmed(_bands(read_clip(self._folder / entry["file"])))))
        return known

    def recognise(self, pcm: bytes) -> CallerTurn | None:
        """The turn that ``pcm`` (PCM16 at 8 kHz, mono) is a recording of; None for anything else."""
        heard = _trimmed(_bands(pcm))
        if not len(heard):
            return None
        scores = [(_likeness(heard, bands), turn) for turn, bands in self._known]
        score, turn = max(scores, key=lambda scored: scored[0], default=(0.0, None))
        if turn is None or score < _SAME:
            return None
        return CallerTurn(turn.scenario, turn.number, turn.text, round(score, 3))


def has_speech(pcm: bytes) -> bool:
    """Whether there is anything in PCM16 at 8 kHz that varies as speech does: not silence, noise, a tone or a click."""
    bands = _trimmed(_bands(pcm))
    if len(bands) < _SHORTEST_WORD:
        return False
    levels = 10 * np.log10(np.sum(10 ** (bands / 10), axis=1))
    return bool(np.std(levels[2:-2]) > _STEADY_DB)


def _bands(pcm: bytes) -> _Bands:
    """Decibels above the floor: one row for every 10 ms, one column per band; all zero for silence."""
    samples = np.frombuffer(pcm[: len(pcm) - len(pcm) % 2], "<i2").astype(np.float64) / 32768
    if len(samples) < _WINDOW:
        return np.zeros((0, len(_EDGES_HZ) - 1))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / (_WINDOW * _WINDOW * 0.1875)
    edges = [round(hz * _WINDOW / RATE_HZ) for hz in _EDGES_HZ]
    bands = np.stack([power[:, low:high].sum(axis=1) for low, high in pairwise(edges)], axis=1)
    decibels = 10 * np.log10(bands + 1e-12)
    loudest = float(decibels.max())
    if loudest < _SILENCE_DBFS:
        return np.zeros_like(decibels)
    return np.clip(decibels - (loudest - _RANGE_DB), 0.0, None)


def _trimmed(bands: _Bands) -> _Bands:
    loud = np.flatnonzero(bands.max(axis=1, initial=0.0) > _RANGE_DB / 4)
    return bands[loud[0] : loud[-1] + 1] if len(loud) else bands[:0]


def _likeness(heard: _Bands, clip: _Bands) -> float:
    """The best correlation of the two over all offsets at which they overlap enough.

    Each band is taken about its own mean in the overlap: what a telephone's filter does to a band's level is no
    difference. Sums over all overlaps come from running sums, products from one convolution.
    """
    least = max(10, round(_SHORTEST_OVERLAP * len(clip)))
    if len(heard) < least:
        return 0.0
    # Offset of the clip within what was heard: wholly inside, or the other way round, and a little beyond either.
    beyond = len(heard) // 10 + 5
    low, high = min(0, len(heard) - len(clip)) - beyond, max(0, len(heard) - len(clip)) + beyond
    offsets = np.arange(low, high + 1)
    begins, ends = np.maximum(0, offsets), np.minimum(len(heard), offsets + len(clip))
    long_enough = ends - begins >= least
    offsets, begins, ends = offsets[long_enough], begins[long_enough], ends[long_enough]
    count = (ends - begins).astype(np.float64)
    sums_a, squares_a = _windows(heard, begins, ends)
    sums_b, squares_b = _windows(clip, begins - offsets, ends - offsets)
    products = _products(heard, clip)[offsets + len(clip) - 1]
    together = products - (sums_a * sums_b).sum(axis=1) / count
    spread_a = squares_a - (sums_a**2).sum(axis=1) / count
    spread_b = squares_b - (sums_b**2).sum(axis=1) / count
    correlation = together / np.sqrt(np.maximum(spread_a * spread_b, 1e-9))
    return float(np.max(correlation * count / min(len(heard), len(clip)), initial=0.0))


def _windows(bands: _Bands, begins: _Places, ends: _Places) -> tuple[_Bands, _Bands]:
    """Sums of every band, and of all squares, over each window."""
    sums = np.vstack([np.zeros(bands.shape[1]), np.cumsum(bands, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum((bands**2).sum(axis=1))])
    return sums[ends] - sums[begins], squares[ends] - squares[begins]


def _products(heard: _Bands, clip: _Bands) -> _Bands:
    """Sum of the products at every offset, the clip's last row on the first row of ``heard`` to begin with."""
    length = len(heard) + len(clip) - 1
    spectrum = np.fft.rfft(heard, length, axis=0) * np.fft.rfft(clip[::-1], length, axis=0)
    return np.fft.irfft(spectrum.sum(axis=1), length)
