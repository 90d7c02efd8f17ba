"""When a call goes over to a fresh model session, because the server ends the present one. Pure.

Theory of operation. A session has a longest duration (its *cap*). In the window before it, the first pause will do:
nobody speaks, nothing is under way, and that for `PAUSE_S`. The next session is opened beside the present one, which
goes on serving; if the pause is over by the time it is open, it is closed again and the next pause is waited for. In
the second half of the window a pause is one even while transcripts are missing. At the end of the window there is no
choice any more: the session is treated as lost, which may cut the agent off, but a fresh one goes on from there.
"""

from __future__ import annotations

from enum import Enum

PAUSE_S = 0.5  # longer than the pre-roll that the next session hears again
WINDOW = (1 / 4, 300.0)  # of the cap, at most so many seconds
LAST_MOMENT = (1 / 20, 15.0)
SHORTEST_S = 20.0  # a session that a server is believed to end so soon, if the setting does not say so
RETRY_S = 10.0  # after a next session that could not be had; at most a tenth of the window


class Step(Enum):
    """What to do now."""

    OPEN = "open"  # the next session, beside the present one
    FORCE = "force"  # the present one is as good as lost


class Rotation:
    """One per call. `opened` begins a session; `look` is called about ten times a second."""

    def __init__(self, session_max_s: float) -> None:
        self._max_s = session_max_s
        self._due_at = self._late_at = self._last_at = float("inf")
        self._retry_s = RETRY_S
        self._not_before = 0.0
        self._quiet_since: float | None = None
        self._opening = False

    def opened(self, now: float) -> None:
        """A session began; how long it may last is the setting's, unless the server says less."""
        self._begin(self._max_s, now)

    def expires(self, in_s: float, now: float) -> None:
        """The server told when it ends this session. Clocks differ: what would mean a rotation all the time is not
        believed, and too late an end is met as a loss.
        """
        if min(SHORTEST_S, self._max_s / 2) <= in_s < self._max_s:
            self._begin(in_s, now)

    def _begin(self, cap_s: float, now: float) -> None:
        window_s = min(cap_s * WINDOW[0], WINDOW[1])
        self._due_at = now + cap_s - window_s
        self._late_at = now + cap_s - window_s / 2
        self._last_at = now + cap_s - min(cap_s * LAST_MOMENT[0], LAST_MOMENT[1])
        self._retry_s = min(RETRY_S, window_s / 10)
        self._not_before = 0.0
        self._opening = False

    def look(self, now: float, *, quiet: bool, settled: bool) -> Step | None:
        """Whether the moment has come. `quiet`: nobody speaks, no answer is due; `settled`: nothing is owed either."""
        pause = self._pause(now, quiet=quiet, settled=settled)
        if now < self._due_at or self._opening:
            return None
        if now >= self._last_at:
            self._due_at = float("inf")
            return Step.FORCE
        if now < self._not_before or not pause:
            return None
        self._opening = True
        return Step.OPEN

    def may_swap(self, now: float, *, quiet: bool, settled: bool) -> bool:
        """The next session is open: whether it takes over, because nothing has happened in the meantime."""
        return self._pause(now, quiet=quiet, settled=settled)

    def _pause(self, now: float, *, quiet: bool, settled: bool) -> bool:
        if not quiet:
            self._quiet_since = None
            return False
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since >= PAUSE_S and (settled or now >= self._late_at)

    def given_up(self, now: float, *, failed: bool) -> None:
        """The next session was not taken: it `failed`, or the pause was over."""
        self._opening = False
        self._not_before = now + self._retry_s if failed else now
