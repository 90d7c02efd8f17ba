"""Session timers (RFC 4028): a session that nobody refreshes ends on both sides, also when a BYE was lost for good."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# RFC 4028 §4, §5: no shorter interval may be asked for
MIN_SE_S = 90
_SECONDS = re.compile(r"\s*([0-9]{1,9})\s*(;.*)?\Z", re.DOTALL)
_REFRESHER = re.compile(r";\s*refresher\s*=\s*(uac|uas)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SessionExpires:
    """A Session-Expires header. `refresher` is "uac", "uas" or "" when it is not said."""

    interval_s: int
    refresher: str = ""

    @classmethod
    def of(cls, headers: Mapping[str, Sequence[str]]) -> SessionExpires | None:
        """Read the header of a message, None when it is absent or unreadable."""
        match = _SECONDS.match((headers.get("session-expires") or ("",))[0])
        if match is None or not int(match[1]):
            return None
        refresher = _REFRESHER.search(match[2] or "")
        return cls(int(match[1]), refresher[1].lower() if refresher else "")

    def __str__(self) -> str:
        return f"{self.interval_s};refresher={self.refresher}" if self.refresher else str(self.interval_s)


def min_se(headers: Mapping[str, Sequence[str]]) -> int:
    """Min-SE in seconds, never below the 90 of RFC 4028 §5."""
    match = _SECONDS.match((headers.get("min-se") or ("",))[0])
    return max(MIN_SE_S, int(match[1])) if match is not None else MIN_SE_S


def agreed_by_callee(
    asked: SessionExpires | None, caller_supports: bool, running: SessionTimer | None
) -> SessionExpires | None:  # fmt: skip
    """What our 2xx to an INVITE or UPDATE says (RFC 4028 §9); None for no session timer.

    A request without Session-Expires keeps a timer that runs. Who cannot refresh is not asked to.
    """
    if asked is None:
        if running is None:
            return None
        return SessionExpires(running.interval_s, "uas" if running.we_refresh else "uac")
    refresher = "uas" if not caller_supports else asked.refresher or "uac"
    return SessionExpires(max(asked.interval_s, MIN_SE_S), refresher)


@dataclass(slots=True)
class SessionTimer:
    """The timer of one confirmed dialog: when we refresh (None: the peer does, or an attempt is open) and the end."""

    interval_s: int
    we_refresh: bool
    refresh_at: float | None
    expires_at: float

    @classmethod
    def start(cls, interval_s: int, we_refresh: bool, now: float) -> SessionTimer:
        """Run from a 2xx on: refresh at half time, BYE a little before the end (RFC 4028 §10)."""
        margin_s = min(32.0, interval_s / 3)
        refresh_at = now + interval_s / 2 if we_refresh else None
        return cls(interval_s, we_refresh, refresh_at, now + interval_s - margin_s)

    def deadline(self) -> float:
        return min(self.refresh_at, self.expires_at) if self.refresh_at is not None else self.expires_at
