"""Ends calls that nobody owns any more (R7). A core without I/O: heartbeats and ticks in, ends out.

A gateway lists its calls once a second. An open call that no gateway lists for the grace time is over. Under
R3 silence counts only while our own link is up for 500 ms and our own ticks come in time; what was silent
while we could not hear is not held against anybody. After our own start or a reconnect the grace begins anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from libs.contracts.termination import Reason

LINK_SETTLE_S = 0.5
LATE_S = 0.1
GATEWAY_SILENT_S = 3.0


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that was offered and has not ended; `gw` is who offered it."""

    call: str
    org: str
    gw: str | None


@dataclass(frozen=True, slots=True)
class EndCall:
    """Publish the end of this call."""

    call: str
    org: str
    reason: Reason


class Janitor:
    """Decides which calls are over. `now` is monotonic, in seconds."""

    def __init__(self, grace_s: float, tick_s: float) -> None:
        self._grace_s = grace_s
        self._tick_s = tick_s
        self._link_up_at: float | None = None
        self._ticked_at: float | None = None
        self._sound_s = 0.0  # how long we have been able to judge, in all
        self._calls: dict[str, OpenCall] = {}
        self._listed_at: dict[str, float] = {}  # open call -> sound time when it was last listed, or first seen
        self._gateways: dict[str, float] = {}  # gateway -> sound time when it was last heard

    def link_up(self, now: float) -> None:
        """Our link was made, or made again: everybody gets the whole grace once more."""
        self._link_up_at = now
        self._listed_at = dict.fromkeys(self._calls, self._sound_s)

    def link_down(self) -> None:
        """Our link was lost: from here on silence says nothing."""
        self._link_up_at = None

    def open_calls(self, calls: Iterable[OpenCall]) -> None:
        """The calls that are open by the database, all of them; a new one begins its grace now."""
        self._calls = {call.call: call for call in calls}
        self._listed_at = {call: self._listed_at.get(call, self._sound_s) for call in self._calls}

    def heard(self, gw: str, listed: Collection[str] | None) -> None:
        """A gateway's heartbeat; `listed` is its calls, once a second."""
        self._gateways[gw] = self._sound_s
        for call in listed or ():
            if call in self._listed_at:
                self._listed_at[call] = self._sound_s

    def tick(self, now: float) -> list[EndCall]:
        """To be called every `tick_s`; the calls to end. An end that did not come about is decided again later."""
        since = self._tick_s if self._ticked_at is None else now - self._ticked_at
        self._ticked_at = now
        settled = self._link_up_at is not None and now - self._link_up_at >= LINK_SETTLE_S
        if not settled or since - self._tick_s >= LATE_S:
            return []
        self._sound_s += since
        over = [call for call, at in self._listed_at.items() if self._sound_s - at >= self._grace_s]
        for call in over:
            self._listed_at[call] = self._sound_s
        self._gateways = {gw: at for gw, at in self._gateways.items() if self._sound_s - at <= self._grace_s}
        return [EndCall(call, self._calls[call].org, self._reason(self._calls[call].gw)) for call in over]

    def _reason(self, gw: str | None) -> Reason:
        heard_at = self._gateways.get(gw or "")
        alive = heard_at is not None and self._sound_s - heard_at <= GATEWAY_SILENT_S
        return Reason.LOST if gw is None or alive else Reason.GATEWAY_LOST
