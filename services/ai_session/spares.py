"""Which connections a worker keeps ready for callers who lose theirs: how many, for what, since when. Pure.

Kept are sessions of the model that was served last; none before anything was served. One that has lasted half of its
longest duration is replaced, so that a call that takes it does not have to leave it soon. A server that refuses, or
drops them at once, is asked again after pauses that double.
"""

from __future__ import annotations

from dataclasses import dataclass

PAUSE_S = 1.0  # after the first refusal
LONGEST_PAUSE_S = 60.0
STEADY_S = 10.0  # one that is lost sooner counts as refused


@dataclass(frozen=True, slots=True)
class Open:
    """Open a connection for this model and keep it."""

    model: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Close a kept connection."""

    spare: int


@dataclass(slots=True)
class _Kept:
    model: str
    opened_at: float
    renew_at: float


class Spares:
    """Numbers stand for connections, which the shell knows."""

    def __init__(self, wanted: int, session_max_s: float) -> None:
        self._wanted, self._max_s = wanted, session_max_s
        self._model: str | None = None
        self._kept: dict[int, _Kept] = {}
        self._number = 0
        self._refusals = 0
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    def served(self, model: str) -> bool:
        """A call of this model is served; True when that changes what is kept."""
        changed, self._model = model != self._model, model
        return changed

    def step(self, now: float) -> list[Open | Drop]:
        """What to do now: one connection at a time is opened, and a worn one closed when its successor is there."""
        if self._model is None:
            return []
        fresh = [number for number, kept in self._kept.items() if self._is_fresh(kept, now)]
        worn = [Drop(number) for number in self._kept if number not in fresh]
        if len(fresh) >= self._wanted:
            for drop in worn:
                del self._kept[drop.spare]
            return list[Open | Drop](worn)
        return [Open(self._model)] if now >= self._not_before else []

    def _is_fresh(self, kept: _Kept, now: float) -> bool:
        return kept.model == self._model and now < kept.renew_at

    def opened(self, model: str, expires_in_s: float | None, now: float) -> int:
        """A connection is open; its number."""
        life_s = self._max_s if expires_in_s is None or expires_in_s <= 0 else min(self._max_s, expires_in_s)
        self._number += 1
        self._kept[self._number] = _Kept(model, now, now + life_s / 2)
        return self._number

    def refused(self, now: float) -> None:
        """No connection could be had."""
        self._not_before = now + min(LONGEST_PAUSE_S, PAUSE_S * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 10)

    def lost(self, spare: int, now: float) -> None:
        """A kept connection is gone."""
        kept = self._kept.pop(spare, None)
        if kept is None:
            return
        if now - kept.opened_at < STEADY_S:
            self.refused(now)
        else:
            self._refusals = 0

    def take(self, model: str) -> int | None:
        """The connection for a caller who needs one now: the youngest; None when there is none for this model."""
        number = max((number for number, kept in self._kept.items() if kept.model == model), default=None)
        if number is not None:
            del self._kept[number]
            self._refusals, self._not_before = 0, 0.0
        return number

    def next_at(self, now: float) -> float | None:
        """When `step` has something to do, if nothing happens before; None: never."""
        if self._model is None or not self._wanted:
            return None
        fresh = [kept.renew_at for kept in self._kept.values() if self._is_fresh(kept, now)]
        if len(fresh) < self._wanted:
            return max(now, self._not_before)
        return now if len(fresh) < len(self._kept) else min(fresh)  # a worn one is to be closed

    def close(self) -> list[int]:
        """Keep none from now on; those that there are."""
        self._model = None
        kept, self._kept = list(self._kept), {}
        return kept
