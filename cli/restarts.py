"""When a dead process is started again: a core without I/O, asked by the supervisor.

The first restart waits 1 s, each further one twice as long, at most 30 s. A process that ran for 60 s
has earned a fresh start.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
SOUND_AFTER_S = 60.0


@dataclass
class _Record:
    started_at: float = 0.0
    wait_s: float = FIRST_WAIT_S
    restarts: int = 0


class Restarts:
    """Remembers each process's record; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def started(self, name: str, now: float) -> None:
        """The process was started."""
        self._records.setdefault(name, _Record()).started_at = now

    def died(self, name: str, now: float) -> float:
        """The process ended on its own: how many seconds to wait before it is started again."""
        record = self._records.setdefault(name, _Record(started_at=now))
        if now - record.started_at >= SOUND_AFTER_S:
            record.wait_s = FIRST_WAIT_S
        wait_s = record.wait_s
        record.wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        record.restarts += 1
        return wait_s

    def count(self, name: str) -> int:
        """How often the process was started again."""
        return self._records[name].restarts if name in self._records else 0
