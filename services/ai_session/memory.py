"""What the model believes was heard, kept equal to what was heard. A core without I/O.

Theory of operation. The model remembers every item it produced as if the caller had heard all of it. After a
barge-in that is wrong, and only the gateway knows by how much, so nothing is corrected before the flush is
acknowledged: then a partly heard part is truncated, clamped to what was received of it; an item of which
nothing was heard is deleted; a completely heard one is left alone, because a needless truncation makes the
model repeat itself. Items that an interrupted response produced without any of it being sent are deleted when
the response has ended and no flush is open.

`RecentIds` remembers responses that are interrupted or over, so that what still arrives of them is refused.
"""

from __future__ import annotations

from services.ai_session.actions import DeleteItem, Truncate
from services.ai_session.backends.port import ResponseEnded
from services.ai_session.playout import Part

REMEMBERED = 64

Correction = Truncate | DeleteItem


class RecentIds:
    """The last `limit` ids that were added."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}  # keeps the order

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str) -> None:
        """Remember an id; the oldest one goes when there are too many."""
        self._ids.pop(name, None)
        self._ids[name] = None
        if len(self._ids) > self._limit:
            del self._ids[next(iter(self._ids))]

    def discard(self, name: str) -> None:
        """Forget an id."""
        self._ids.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        self._ids.clear()


class ModelMemory:
    """The items of one call's model. Methods return the corrections it needs; none when it cannot truncate."""

    def __init__(self, *, can_truncate: bool, samples_per_ms: float) -> None:
        self._can_truncate = can_truncate
        self._per_ms = samples_per_ms
        self._settled: dict[str, str] = {}  # items that were heard, or dealt with -> response
        self._unheard: dict[str, str] = {}  # items that produced audio, the same; until heard or dealt with
        self._flushing = False
        self._ended: list[ResponseEnded] = []  # interrupted responses that ended under the flush

    @property
    def size(self) -> int:
        """How many items are kept track of."""
        return len(self._settled) + len(self._unheard)

    def produced(self, item: str, response: str) -> None:
        """Audio of an item arrived, whether it was accepted or refused."""
        if item not in self._unheard and item not in self._settled:
            self._unheard[item] = response

    def heard(self, part: Part) -> None:
        """The first sample of a part reached the caller, or the whole part is done with."""
        item = part.key[0]
        self._settled[item] = part.response
        self._unheard.pop(item, None)

    def flush_began(self) -> None:
        """From now on it is not known what was heard, until `flushed`."""
        self._flushing = True

    def flushed(self) -> list[Correction]:
        """The flush is acknowledged and `correct` was told every part of it."""
        self._flushing = False
        ended, self._ended = self._ended, []
        return [action for event in ended for action in self._forget_unheard(event)]

    def correct(self, part: Part) -> list[Correction]:
        """Make the model believe what was heard of a part, no more and no less."""
        item, content_index = part.key
        was_heard = item in self._settled
        self.heard(part)
        if not self._can_truncate or (part.complete and not part.lost):
            return []
        heard_ms = int(min(part.heard, part.received) / self._per_ms)
        if heard_ms > 0:
            return [Truncate(item, content_index, heard_ms)]
        return [] if was_heard else [DeleteItem(item)]

    def interrupted_response_ended(self, event: ResponseEnded) -> list[Correction]:
        """An interrupted response is over: nothing more comes of it."""
        if self._flushing:
            self._ended.append(event)
            return []
        return self._forget_unheard(event)

    def _forget_unheard(self, event: ResponseEnded) -> list[Correction]:
        unheard = [item for item, response in self._unheard.items() if response == event.response]
        unheard += [item for item in event.items if item not in self._settled and item not in unheard]
        for item in unheard:
            self._unheard.pop(item, None)
        self._settled = {item: response for item, response in self._settled.items() if response != event.response}
        return [DeleteItem(item) for item in unheard] if self._can_truncate else []

    def drained(self, active: str | None) -> None:
        """Everything was heard: only items of the response under way, if any, may still be asked about."""
        self._settled = {item: response for item, response in self._settled.items() if response == active}
