"""Whole samples of a PCM16 stream that comes cut anywhere. A core without I/O."""

from __future__ import annotations


class WholeSamples:
    """One stream: half a sample at the end of a piece waits for the next one."""

    def __init__(self) -> None:
        self._half = b""

    def push(self, data: bytes) -> bytes:
        """The samples that `data` completes."""
        if self._half:
            data = self._half + data
        whole = len(data) & ~1
        self._half = data[whole:]
        return data[:whole]

    def forget(self) -> None:
        """What comes next is another stream."""
        self._half = b""
