"""When a draining worker asks for another one: at a pause of the talk, at the latest at a deadline (R9). Pure."""

from __future__ import annotations

AGAIN_S = 1.0  # the gateway may find no other worker at first


class HandingOver:
    """One call's wish to be handed over; none until `wanted`."""

    def __init__(self) -> None:
        self._by: float | None = None
        self._at = 0.0  # not asked for again before

    def wanted(self, patience_s: float, now: float) -> None:
        """The worker shuts down; the first deadline stands."""
        if self._by is None:
            self._by = now + patience_s

    def due(self, now: float, *, at_pause: bool) -> bool:
        """Whether to ask now: at a pause, every second until somebody takes the call, a last time at the deadline."""
        if self._by is None or now < self._at:
            return False
        late = now >= self._by
        if not late and not at_pause:
            return False
        self._at = float("inf") if late else min(now + AGAIN_S, self._by)
        return True
