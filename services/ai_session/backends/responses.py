"""When to ask the Realtime API for a response: never two at a time in the default conversation. Pure.

Theory of operation. At most one `response.create` is on its way or one response active. Requests queue:
instructed ones (greeting, goodbye) keep their order; the *continuation* after tool calls is a flag, because one
response reads all outputs that are in. It is set when every output of a response has been handed in, and
cleared when a response begins that has seen them, whoever asked for it: the server confirms each output
(`conversation.item.added`), and what it created before that confirmation has not. While the caller speaks,
the continuation waits, since the server's turn detection will answer anyway.

Each request carries its number in `metadata`, which the server echoes: that tells our responses from the turn
detection's. A server that echoes nothing is believed to answer us unless an answer to the caller is due.

Refusals. `conversation_already_has_active_response` is no error: the request goes back to the queue, once; without
an `event_id` and without a request of ours it was the turn detection's own, whose answer we then ask for. Any
other refusal counts as a failed response, so that the turn machine tries again after a pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

ALREADY_ACTIVE = "conversation_already_has_active_response"
ORIGIN = "callbus"  # marks our own requests in `metadata`, which the server echoes
VAD_GRACE_S = 1.0  # after the caller stopped, for the server's own response to begin
STALL_S = 8.0  # a response is due or active, and the server sends nothing at all


class Refusal(Enum):
    """What an error event means for our responses."""

    ELSEWHERE = "elsewhere"  # it concerns none of them
    SETTLED = "settled"  # dealt with: what is still wanted will be asked for
    FAILED = "failed"  # the response that was due will not come


@dataclass(frozen=True, slots=True)
class Create:
    """Send `response.create`; `event_id` goes into its metadata as `request`, too."""

    event_id: str
    instructions: str | None

    @property
    def metadata(self) -> dict[str, str]:
        """What the server is to echo."""
        return {"origin": ORIGIN, "request": self.event_id}


@dataclass(slots=True)
class _Request:
    instructions: str | None
    retried: bool = False
    event_id: str = ""  # under which it was sent last


class Responses:
    """One per connection. Methods that may free the way return the request to send now, or None."""

    def __init__(self) -> None:
        self._active: str | None = None
        self._active_saw_outputs = True
        self._sent: _Request | None = None  # the last one
        self._in_flight = False  # and neither begun nor refused yet
        self._doubtful = False  # an unmarked response began meanwhile: it may have been the answer
        self._doubt_until = float("inf")
        self._queue: deque[_Request] = deque()
        self._tools: dict[str, set[str]] = {}  # response -> calls without output
        self._unseen: set[str] = set()  # outputs that the server has not confirmed
        self._continue = False
        self._caller_speaking = False
        self._answer_due = False  # the caller has spoken since the turn detection's last response
        self._hold_until = 0.0
        self._number = 0

    @property
    def is_active(self) -> bool:
        """A response is under way."""
        return self._active is not None

    @property
    def is_in_flight(self) -> bool:
        """A request of ours is on its way."""
        return self._in_flight

    @property
    def is_waiting(self) -> bool:
        """Something is due from the server."""
        return self._active is not None or self._in_flight

    def ask(self, instructions: str | None, now: float) -> Create | None:
        """A response is wanted."""
        self._queue.append(_Request(instructions))
        return self._next(now)

    def created(self, response: str, metadata: Mapping[str, object] | None) -> bool:
        """A response began; True when it is one that we asked for."""
        ours = self._is_ours(metadata)
        if ours:
            self._in_flight = False
        else:
            self._doubtful = self._in_flight and metadata is None
            self._answer_due = False
            self._hold_until = 0.0  # the server has answered the caller's turn: nothing more to wait for
        self._active = response
        self._active_saw_outputs = not self._unseen
        if self._active_saw_outputs:
            self._continue = False
        return ours

    def _is_ours(self, metadata: Mapping[str, object] | None) -> bool:
        if metadata is not None and metadata.get("origin") == ORIGIN:
            named = metadata.get("request")
            self._queue = deque(request for request in self._queue if not named or request.event_id != named)
            return True
        return self._in_flight and metadata is None and not self._answer_due

    def done(self, response: str, now: float) -> Create | None:
        """A response is over."""
        if self._active == response:
            self._active = None
            if self._in_flight and self._doubtful:
                self._doubt_until = now + VAD_GRACE_S
        return self._next(now)

    def tool_called(self, response: str, tool_call_id: str) -> None:
        """A completed response calls a tool."""
        self._tools.setdefault(response, set()).add(tool_call_id)

    def tool_output(self, tool_call_id: str, now: float) -> Create | None:
        """An output was handed in."""
        self._unseen.add(tool_call_id)
        for response, waiting in self._tools.items():
            if tool_call_id in waiting:
                waiting.discard(tool_call_id)
                if not waiting:
                    del self._tools[response]
                    self._continue = True
                break
        return self._next(now)

    def answer_due(self, now: float) -> Create | None:
        """The server has called a tool by itself: it may go on by itself, else it is asked to."""
        self._continue = True
        self._hold_until = max(self._hold_until, now + VAD_GRACE_S)
        return self._next(now)

    def output_seen(self, tool_call_id: str) -> None:
        """The server has an output in its conversation: responses that begin from now on have read it."""
        self._unseen.discard(tool_call_id)

    def caller_speaks(self, speaking: bool, now: float) -> None:
        """The server's turn detection."""
        self._caller_speaking = speaking
        self._answer_due = True
        if not speaking:
            self._hold_until = now + VAD_GRACE_S

    def refused(self, code: str, event_id: str | None, now: float) -> Refusal:
        """An error event; says what becomes of the response it concerns."""
        sent = self._sent
        if event_id is not None and (sent is None or event_id != sent.event_id):
            return Refusal.ELSEWHERE
        if event_id is None and not self._in_flight:
            return self._turn_detection_refused(code)
        self._in_flight = False
        if code != ALREADY_ACTIVE or sent is None or sent.retried:
            return Refusal.FAILED
        self._hold_until = max(self._hold_until, now + VAD_GRACE_S)
        if sent.instructions is not None:
            sent.retried = True
            self._queue.appendleft(sent)
        elif self._active is None or not self._active_saw_outputs:
            self._continue = True
        return Refusal.SETTLED

    def _turn_detection_refused(self, code: str) -> Refusal:
        """The server failed to answer the caller by itself."""
        if code == ALREADY_ACTIVE:
            self._answer_due, self._continue = False, True
            return Refusal.SETTLED
        if self._answer_due and not self._caller_speaking and self._active is None:
            self._answer_due = False
            return Refusal.FAILED
        return Refusal.ELSEWHERE

    def tick(self, now: float) -> Create | None:
        """Time passes."""
        if self._in_flight and now >= self._doubt_until:  # no marked response and no refusal came: that was the answer
            self._in_flight = False
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
        request.event_id = f"create-{self._number}"
        self._sent, self._in_flight, self._continue = request, True, False
        self._doubtful, self._doubt_until = False, float("inf")
        return Create(request.event_id, request.instructions)
