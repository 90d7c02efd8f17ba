"""Which response of a pipeline call comes next: never two at a time. Pure.

Theory of operation. Wishes of the session queue and keep their order. The *continuation* after tool calls is a flag,
since one request reads all outputs that are in: it is set when the last output of a response has come, and cleared when
a request to the model begins that has read them all, whoever asked for it. It waits while a turn of the caller is open
(being spoken, or being transcribed), because the session will ask for the answer to that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from services.ai_session.phrases import Verbatim, Wish


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin this response now."""

    wish: Wish


class PipelineRequests:
    """One per connection. Methods that may free the way return what is to begin, or None."""

    def __init__(self) -> None:
        self._queue: deque[Wish] = deque()
        self._active = False
        self._continue = False
        self._open_turns: set[str] = set()

    def ask(self, wish: Wish) -> Begin | None:
        """A response is wanted. Two answers that wait at the same time are one."""
        if wish is not None or None not in self._queue:
            self._queue.append(wish)
        return self.next()

    def tools_complete(self) -> Begin | None:
        """All outputs of a response are in."""
        self._continue = True
        return self.next()

    def turn_opened(self, item: str) -> None:
        """The caller speaks."""
        self._open_turns.add(item)

    def turn_closed(self, item: str) -> Begin | None:
        """The session knows what was said, or that it was nothing, and has asked for what it wants."""
        self._open_turns.discard(item)
        return self.next()

    def ended(self) -> Begin | None:
        """The response under way is over."""
        self._active = False
        return self.next()

    def next(self) -> Begin | None:
        """What may begin now."""
        if self._active:
            return None
        if self._queue:
            wish = self._queue.popleft()
        elif self._continue and not self._open_turns:
            wish = None
        else:
            return None
        self._active = True
        if not isinstance(wish, Verbatim):
            self._continue = False
        return Begin(wish)
