"""The near end of a long object: bytes go in here, the store takes them from `pieces`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

PIECE_BYTES = 256 << 10
PIECES_WAITING = 4


class AbandonedError(Exception):
    """Whoever wrote gave up: what was sent so far must not become an object."""


class ObjectWriter:
    """Takes an object piece by piece; `ObjectStore.writer` makes it."""

    def __init__(self) -> None:
        self._gathered = bytearray()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(PIECES_WAITING)
        self._ended = False
        self._abandoned = False
        self.failure: Exception | None = None
        self.written_bytes = 0

    async def write(self, data: bytes) -> None:
        """Take the next bytes; waits where the store is slower than the writer.

        Raises:
            ObjectStoreError: the store took no more; the object will not appear.
        """
        if self.failure is not None:
            raise self.failure
        self._gathered += data
        self.written_bytes += len(data)
        if len(self._gathered) >= PIECE_BYTES:
            await self._hand_over()

    async def end(self) -> None:
        """Nothing more comes; the object is complete."""
        await self._hand_over()
        self._ended = True
        await self._pieces.put(b"")

    def abandon(self) -> None:
        """Give up; returns at once, also when the queue is full."""
        self._abandoned = True
        if not self._pieces.full():
            self._pieces.put_nowait(b"")

    def failed(self, failure: Exception) -> None:
        """The store gave up: the next `write` says so."""
        self.failure = failure

    async def pieces(self) -> AsyncIterator[bytes]:
        """What was written, for the store.

        Raises:
            AbandonedError: the writer gave up.
        """
        while True:
            piece = await self._pieces.get()
            if self._abandoned:
                raise AbandonedError("abandoned")
            if not piece:
                return
            yield piece

    async def discard(self) -> None:
        """Empty the queue to its end, so that nobody waits for a store that gave up."""
        while not self._abandoned and (not self._ended or not self._pieces.empty()):
            await self._pieces.get()

    async def _hand_over(self) -> None:
        piece = bytes(self._gathered)
        self._gathered.clear()
        if piece:
            await self._pieces.put(piece)
