"""When to ask the Realtime API for a response: never two at a time in the default conversation. Pure.

Theory of operation. At most one `response.create` is on its way or one response active. Requests queue:
instructed ones (greeting, goodbye) keep their order; the *continuation* after tool calls is a flag, because one
response reads all outputs that are in. It is set when every output of a response has been handed in, and
cleared when any response begins after that, whoever asked for it: it has seen them. While the caller speaks,
the continuation waits, since the server's turn detection will answer anyway. A refusal with
`conversation_already_has_active_response` is no error: the request goes back to the queue, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

ALREADY_ACTIVE = "conversation_already_has_active_response"
ORIGIN = "callbus"  # marks our own requests in `metadata`, which the server echoes
VAD_GRACE_S = 1.0  # after the caller stopped, for the server's own response to begin
STALL_S = 8.0  # a response is due or active, and the server sends nothing at all


@dataclass(frozen=True, slots=True)
class Create:
    """Send `response.create`."""

    event_id: str
    instructions: str | None


@dataclass(slots=True)
class _Request:
    instructions: str | None
    retried: bool = False


class Responses:
    """One per connection. Methods that may free the way return the request to send now, or None."""

    def __init__(self) -> None:
        self._active: str | None = None
        self._sent: tuple[str, _Request] | None = None  # the last request, until its outcome is known
        self._in_flight = False
        self._queue: deque[_Request] = deque()
        self._tools: dict[str, set[str]] = {}  # response -> calls without output
        self._continue = False
        self._caller_speaking = False
        self._hold_until = 0.0
        self._number = 0

    @property
    def is_waiting(self) -> bool:
        """Something is due from the server."""
        return self._active is not None or self._in_flight

    def ask(self, instructions: str | None, now: float) -> Create | None:
        """A response is wanted."""
        self._queue.append(_Request(instructions))
        return self._next(now)

    def created(self, response: str, metadata: Mapping[str, object] | None) -> bool:
        """A response began; True when it is the one we asked for."""
        ours = self._in_flight and (metadata is None or metadata.get("origin") == ORIGIN)
        if ours:
            self._in_flight = False
        self._active = response
        self._continue = False
        self._hold_until = 0.0  # the server has answered the caller's turn: nothing more to wait for
        return ours

    def done(self, response: str, now: float) -> Create | None:
        """A response is over."""
        if self._active == response:
            self._active = None
        return self._next(now)

    def tool_called(self, response: str, tool_call_id: str) -> None:
        """A completed response calls a tool."""
        self._tools.setdefault(response, set()).add(tool_call_id)

    def tool_output(self, tool_call_id: str, now: float) -> Create | None:
        """An output was handed in."""
        for response, waiting in self._tools.items():
            if tool_call_id in waiting:
                waiting.discard(tool_call_id)
                if not waiting:
                    del self._tools[response]
                    self._continue = True
                break
        return self._next(now)

    def caller_speaks(self, speaking: bool, now: float) -> None:
        """The server's turn detection."""
        self._caller_speaking = speaking
        if not speaking:
            self._hold_until = now + VAD_GRACE_S

    def refused(self, code: str, event_id: str | None, now: float) -> bool:
        """An error event; True when it concerns a request of ours and is dealt with."""
        sent = self._sent
        concerns = sent is not None and (event_id == sent[0] or (event_id is None and code == ALREADY_ACTIVE))
        if not concerns or sent is None:
            return False
        self._sent, self._in_flight = None, False
        if code != ALREADY_ACTIVE:
            return False  # the request is bad: repeating it helps nobody, the caller of the API should know
        if not sent[1].retried:
            sent[1].retried = True
            self._queue.appendleft(sent[1])
            self._hold_until = max(self._hold_until, now + VAD_GRACE_S)
        return True

    def tick(self, now: float) -> Create | None:
        """Time passes."""
        return self._next(now)

    def _next(self, now: float) -> Create | None:
        if self._active is not None or self._in_flight:
            return None
        if self._queue and not (self._queue[0].retried and now < self._hold_until):
            return self._send(self._queue.popleft())
        if self._continue and not self._caller_speaking and now >= self._hold_until and not self._queue:
            return self._send(_Request(None))
        return None

    def _send(self, request: _Request) -> Create:
        self._number += 1
        event_id = f"create-{self._number}"
        self._sent, self._in_flight, self._continue = (event_id, request), True, False
        return Create(event_id, request.instructions)
