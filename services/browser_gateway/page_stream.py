"""One page's side of a WebSocket as a core without I/O: messages in, events and 20 ms frames out.

Binary messages, both ways: eight bytes, a *position* in samples as an unsigned little-endian integer, then PCM16LE,
mono, 16 kHz. Downwards the position counts the samples sent before this message; upwards it is the one up to which
the page has played what it was sent. Downwards a message carries 20 ms; upwards any whole number of samples up to a
second, which is cut into frames of 20 ms here. `messages` has the text messages.

Nothing that a page sends raises: what cannot be read is counted, and the first `TOLERATED` of it forgiven.
"""

from __future__ import annotations

import struct
from collections import Counter

from pydantic import ValidationError

from services.browser_gateway.messages import FROM_PAGE, FromPage

RATE_HZ = 16000
FRAME_BYTES = 640
HEADER = struct.Struct("<Q")
MAX_PCM_BYTES = 2 * RATE_HZ
MAX_BINARY_BYTES = HEADER.size + MAX_PCM_BYTES
MAX_TEXT_CHARACTERS = 4096
KEPT_FRAMES = 10  # of a message that brings more than these: a page that was stalled; older audio would only be delay
TOLERATED = 50
LIMIT = 1 << 53  # as for all integers of the bus


class PageStream:
    """`position` is where the page says that its playback stands; `muted` makes its frames silence."""

    def __init__(self) -> None:
        self.position = 0
        self.muted = False
        self.counters: Counter[str] = Counter()
        self._rest = b""

    def audio(self, data: bytes) -> list[bytes]:
        """Frames of 20 ms that a binary message completes."""
        size = len(data) - HEADER.size
        if size < 0 or size % 2 or size > MAX_PCM_BYTES:
            self.counters["malformed"] += 1
            return []
        (position,) = HEADER.unpack_from(data)
        if position < LIMIT:
            self.position = position  # the playout queue judges it
        self.counters["received"] += 1
        if size == FRAME_BYTES and not self._rest:
            return [bytes(FRAME_BYTES) if self.muted else data[HEADER.size :]]
        pcm = self._rest + data[HEADER.size :]
        whole = len(pcm) - len(pcm) % FRAME_BYTES
        self._rest = pcm[whole:]
        frames = [pcm[at : at + FRAME_BYTES] for at in range(0, whole, FRAME_BYTES)]
        if len(frames) > KEPT_FRAMES:
            self.counters["dropped"] += len(frames) - KEPT_FRAMES
            del frames[:-KEPT_FRAMES]
        return [bytes(FRAME_BYTES)] * len(frames) if self.muted else frames

    def text(self, data: str) -> FromPage | None:
        """The message, or None (counted) when it cannot be understood."""
        try:
            if len(data) > MAX_TEXT_CHARACTERS:
                raise ValueError("too long")
            return FROM_PAGE.validate_json(data)
        except (ValidationError, ValueError):
            self.counters["malformed"] += 1
            return None

    @property
    def is_hopeless(self) -> bool:
        """Whatever is at the other end, it does not speak this protocol."""
        return self.counters["malformed"] > TOLERATED


def downlink(position: int, pcm: bytes) -> bytes:
    """A binary message to the page."""
    return HEADER.pack(position) + pcm
