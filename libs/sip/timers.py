"""One deadline out of many: a heap of (time, key) in which setting a key again replaces its old time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """The timers of all transactions and dialogs; the shell arms a single timer for `earliest()`."""

    def __init__(self) -> None:
        self._times: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = 0

    def set(self, key: Key, at: float | None) -> None:
        """Set, replace or (with None) remove the deadline of `key`."""
        if at is None:
            self._times.pop(key, None)
            return
        if self._times.get(key) == at:
            return
        self._times[key] = at
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, key))
        if len(self._heap) > 64 + 4 * len(self._times):
            self._heap = [entry for entry in self._heap if self._times.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def earliest(self) -> float | None:
        """The next deadline, None when nothing waits."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Key | None:
        """Take the earliest key whose time has come, None when none has."""
        at = self.earliest()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._times[key]
        return key
