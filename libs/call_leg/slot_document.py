"""The arithmetic of KV `slots`: who holds how many places of an organisation. A core without I/O.

Theory of operation. An organisation has one document with a section per gateway. A gateway writes its own section,
whole and from its own memory (R4), and never another one's, except that it removes the calls of a gateway that is gone.
Since documents are replaced by compare-and-set, whoever takes a place has counted all others: the limits are exact. And
since sections come from memory, a document that was lost is complete again as soon as every gateway has written.

Attempts are counted as calls let in: a refused one leaves no trace, so that a flood of refusals writes nothing and
callers are served again as soon as the 60 s allow it. They stay counted after the call and after its gateway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

from libs.call_leg.admission import Limits
from libs.contracts.model import Message

MINUTE_MS = 60_000
GONE_S = 3.0  # thirty heartbeats; a gateway stalled for that long loses its places and takes them back a second later


class Verdict(Enum):
    """What became of an ask."""

    TAKEN = "taken"
    FULL = "full"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that wants a place."""

    call: str
    limits: Limits


class Section(BaseModel):
    """One gateway's calls, and when it let calls in lately (milliseconds of the Unix epoch)."""

    model_config = ConfigDict(frozen=True)

    calls: tuple[str, ...] = ()
    attempts: tuple[int, ...] = ()


class SlotDocument(Message):
    """KV `slots`, key `<org>`: a section per gateway."""

    sections: dict[str, Section] = Field(default_factory=dict)


def _recent(attempts: Iterable[int], now_ms: int) -> tuple[int, ...]:
    """Those that count. A clock that is ahead of ours counts up to a minute; one that is worse does not."""
    return tuple(at for at in attempts if -MINUTE_MS < at - now_ms < MINUTE_MS)


@dataclass(slots=True)
class OrgPlaces:
    """One gateway's memory of one organisation: the places it holds."""

    gw: str
    held: dict[str, None] = field(default_factory=dict)  # in the order in which they were taken
    attempts: list[int] = field(default_factory=list)

    def settle(
        self, found: SlotDocument, asks: Iterable[Ask], gone: Collection[str], now_ms: int
    ) -> tuple[SlotDocument, list[Verdict]]:
        """What the document becomes, and what each ask is told; `keep` it once it is written."""
        others = {gw: section for gw, section in found.sections.items() if gw != self.gw}
        for gw in others.keys() & gone:
            others[gw] = Section(attempts=_recent(others[gw].attempts, now_ms))
        calls, attempts = dict(self.held), list(_recent(self.attempts, now_ms))
        elsewhere = sum(len(section.calls) for section in others.values())
        earlier = sum(len(_recent(section.attempts, now_ms)) for section in others.values())
        verdicts = []
        for ask in asks:
            verdict = _verdict(ask, calls, elsewhere + len(calls), earlier + len(attempts))
            if verdict is Verdict.TAKEN and ask.call not in calls:
                calls[ask.call] = None
                attempts.append(now_ms)
            verdicts.append(verdict)
        mine = Section(calls=tuple(calls), attempts=tuple(attempts))
        sections = {gw: each for gw, each in (others | {self.gw: mine}).items() if each.calls or each.attempts}
        return SlotDocument(sections=sections), verdicts

    def keep(self, call: str, now_ms: int) -> None:
        """A place was taken."""
        if call not in self.held:
            self.held[call] = None
            self.attempts = [*_recent(self.attempts, now_ms), now_ms]

    def free(self, call: str) -> bool:
        """A call ended; whether it held a place."""
        return call in self.held and self.held.pop(call) is None

    def is_in(self, document: SlotDocument) -> bool:
        """Whether the document names the calls that are held, and no others of this gateway."""
        section = document.sections.get(self.gw)
        return set(self.held) == set(section.calls if section else ())


def _verdict(ask: Ask, mine: Collection[str], calls: int, attempts: int) -> Verdict:
    if ask.call in mine:
        return Verdict.TAKEN
    if ask.limits.max_calls is not None and calls >= ask.limits.max_calls:
        return Verdict.FULL
    if ask.limits.attempts_per_minute is not None and attempts >= ask.limits.attempts_per_minute:
        return Verdict.TOO_MANY
    return Verdict.TAKEN


class Presence:
    """Which gateways are gone: silent for `GONE_S` while our own link was sound (R3) all the time."""

    def __init__(self) -> None:
        self._heard_at: dict[str, float] = {}
        self._sound_since: float | None = None

    def heard(self, gw: str, now: float) -> None:
        """A heartbeat of this gateway."""
        self._heard_at[gw] = now

    def checked(self, is_sound: bool, now: float) -> None:
        """The state of our own link and ticker; told regularly, and before anybody is judged."""
        if not is_sound:
            self._sound_since = None
        elif self._sound_since is None:
            self._sound_since = now
        for gw in [gw for gw, at in self._heard_at.items() if now - at > 100 * GONE_S]:
            del self._heard_at[gw]

    def is_gone(self, gw: str, now: float) -> bool:
        """Judge one."""
        if self._sound_since is None:
            return False
        return now - max(self._sound_since, self._heard_at.get(gw, self._sound_since)) > GONE_S
