"""Who hears a call besides its two sides: taps and a recorder, by leases. A core without I/O.

Theory of operation. A listener renews a lease; while one lives, the gateway publishes what the caller hears. Whether
the call is to be recorded is the agent's policy or a command. While it is, and no recorder holds a lease, one is asked
for, every `ASK_EVERY_S`; a lease that ran out means that the recorder is gone, and that another one is wanted. A
recorder that is not wanted any more learns it when it renews.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ASK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class AskRecorder:
    """Ask for a recorder."""


@dataclass(frozen=True, slots=True)
class Tell:
    """The recording's state changed."""

    state: Literal["started", "stopped", "lost"]
    by: str


Wish = AskRecorder | Tell


class Listening:
    """One call's listeners. `expire` is to be called at `deadline`."""

    def __init__(self) -> None:
        self.is_wanted = False  # a recording
        self.recorder: str | None = None
        self._until: dict[str, float] = {}
        self._ask_at = 0.0

    @property
    def is_heard(self) -> bool:
        """Somebody listens."""
        return bool(self._until)

    @property
    def is_watched(self) -> bool:
        """Somebody but the recorder listens."""
        return any(by != self.recorder for by in self._until)

    def record(self, wanted: bool, now: float) -> list[Wish]:
        """The call is to be recorded from now on, or not any more."""
        if wanted == self.is_wanted:
            return []
        self.is_wanted, by = wanted, self.recorder
        if wanted:
            self._ask_at = now
            return self.expire(now)
        self._forget_recorder()
        return [Tell("stopped", by)] if by is not None else []

    def lease(self, by: str, until: float, *, is_recorder: bool) -> list[Wish]:
        """Somebody listens until then; a recorder that nobody wants, or that comes second, is none."""
        if not is_recorder:
            self._until[by] = until
            return []
        if not self.is_wanted or self.recorder not in (None, by):
            return []
        self._until[by] = until
        if self.recorder == by:
            return []
        self.recorder = by
        return [Tell("started", by)]

    def keeps(self, by: str) -> bool:
        """Whether this recorder is to go on."""
        return self.is_wanted and self.recorder == by

    def expire(self, now: float) -> list[Wish]:
        """Time has passed."""
        wishes: list[Wish] = []
        for by in [by for by, until in self._until.items() if until <= now]:
            del self._until[by]
            if by == self.recorder:
                self.recorder = None
                self._ask_at = now
                wishes.append(Tell("lost", by))
        if self.is_wanted and self.recorder is None and now >= self._ask_at:
            self._ask_at = now + ASK_EVERY_S
            wishes.append(AskRecorder())
        return wishes

    def deadline(self) -> float | None:
        """When to call `expire`."""
        due = list(self._until.values())
        if self.is_wanted and self.recorder is None:
            due.append(self._ask_at)
        return min(due, default=None)

    def _forget_recorder(self) -> None:
        if self.recorder is not None:
            self._until.pop(self.recorder, None)
            self.recorder = None
