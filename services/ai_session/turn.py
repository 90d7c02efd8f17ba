"""The turn machine of one call: who speaks, what a barge-in does, when the call ends politely.

Theory of operation. Three phases, seen from the agent: *listening*, *thinking* (a response is under way and
nothing of it plays yet) and *speaking* (audio was accepted and the ledger has not drained). Inputs are the
backend's events, the ledger's events, a few commands and `tick(now)`; each returns a list of actions for
the shell. Nothing here waits, knows the clock or touches the bus.

Barge-in: when the caller starts to speak while a response lives or its audio plays, every living response
is declared dead (its later deltas are refused by `accepts`), the playout is flushed, and the response is
cancelled unless the backend does that by itself. Only when the gateway has said where playback stopped (`Flushed`)
is the model's memory corrected: a partly heard part is truncated, clamped to what was received of it; an item of
which nothing was heard is deleted; a completely heard one is left alone, because a needless truncation makes the
model repeat itself. Items of a dead response that show up later were never heard and are deleted when
it ends.

The polite end (time limit, budget, hang-up by the agent) asks for one last response and hangs up when that was
heard, or `LAST_WORDS_S` later, whatever the model does. The last words cannot be interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.ai_session.actions import (
    Action,
    CancelResponse,
    DeleteItem,
    Fail,
    FlushPlayout,
    HandOver,
    HangUp,
    NoteTrouble,
    PublishAgentTurn,
    PublishCallerSpoke,
    PublishCallerTurn,
    PublishLatency,
    RunTool,
    StartResponse,
    Truncate,
    Why,
)
from services.ai_session.backends.port import (
    BackendEvent,
    CallerTranscript,
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
    Trouble,
)
from services.ai_session.history import GoOn
from services.ai_session.latency import LatencyProbe
from services.ai_session.phrases import Phrases
from services.ai_session.playout import Drained, Flushed, Part, PartBegan, PartDone, PlayoutEvent
from services.ai_session.speech_text import SpeechText

LAST_WORDS_S = 15.0
FAILED_RESPONSES = 3  # in a row, then the model counts as broken
DIGITS_PAUSE_S = 1.5  # between two keys of one group
RETRY_S = 0.5  # before a failed response is tried again, times the failures so far
STALL_S = 20.0  # thinking without any sign of life


class Phase(Enum):
    """What the agent does."""

    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"


@dataclass(frozen=True, slots=True)
class TurnRules:
    """The agent's settings that turns depend on."""

    phrases: Phrases
    interruptible: bool = True
    max_duration_s: float = 1800.0
    budget_usd: float | None = None


class TurnMachine:
    """One call's turns. `text` is shared with the shell, which fills it from the backend's transcripts."""

    def __init__(self, rules: TurnRules, capabilities: Capabilities, text: SpeechText, rate_hz: int) -> None:
        self._rules = rules
        self._can = capabilities
        self._text = text
        self._per_ms = rate_hz / 1000
        self.phase = Phase.LISTENING
        self.latency = LatencyProbe()
        self._active: str | None = None  # the response that the model works on
        self._playing: set[str] = set()  # responses with audio that is not heard yet
        self._dead: set[str] = set()
        self._cut: set[str] = set()  # responses whose rest was lost with the model connection
        self._heard_items: set[str] = set()  # of the living and dead responses, to know what to delete
        self._unheard: dict[str, str] = {}  # items that produced audio -> response; until heard or deleted
        self._flushing = False  # a flush is not acknowledged yet
        self._to_forget: list[ResponseEnded] = []  # interrupted responses that ended meanwhile
        self._caller_speaking = False
        self._tools = 0
        self._failures = 0
        self._quiet_since = 0.0  # last sign of life while thinking
        self._spent_usd = 0.0
        self._end_at: float | None = None
        self._ending: Why | None = None
        self._goodbye_due = False  # last words were asked for and their response has not begun
        self._last_words_by = 0.0
        self._hand_over_by: float | None = None
        self._over = False
        self._retry_at: float | None = None
        self._digits = ""
        self._digits_at = 0.0

    # -- beginning and commands -----------------------------------------------------------------------

    def begin(self, go_on: GoOn, talked_s: float, now: float) -> list[Action]:
        """The call is answered, or this session took it over after `talked_s` seconds of talk."""
        if self._end_at is None:
            self._end_at = now + max(0.0, self._rules.max_duration_s - talked_s)
        phrases = self._rules.phrases
        match go_on:
            case GoOn.GREET:
                return self._respond(phrases.greeting, now) if phrases.greeting else []
            case GoOn.LISTEN:
                return []
            case GoOn.ANSWER:
                return self._respond(None, now)
            case GoOn.CONTINUE:
                return self._respond(phrases.carry_on, now)
            case GoOn.ASK_TO_REPEAT:
                return self._respond(phrases.ask_to_repeat, now)

    def say(self, text: str, now: float) -> list[Action]:
        """Somebody wants the agent to say this."""
        return self._respond(self._rules.phrases.verbatim(text), now)

    def pressed(self, digit: str, now: float) -> list[Action]:
        """The caller pressed a key; a group of keys is told to the model when it is complete."""
        self._digits += digit
        self._digits_at = now
        return []

    def drain(self, patience_s: float, now: float) -> list[Action]:
        """The worker shuts down: hand the call over at the next pause, at the latest after `patience_s` (R9)."""
        if self._hand_over_by is None:
            self._hand_over_by = now + patience_s
        return self._maybe_hand_over(now)

    def end_politely(self, why: Why, now: float) -> list[Action]:
        """Say goodbye and hang up when that was heard."""
        if self._ending is not None:
            return []
        self._ending, self._last_words_by = why, now + LAST_WORDS_S
        if why is Why.AGENT:  # it has said goodbye in its own words, or is about to
            return self._hang_up_when_quiet()
        self._goodbye_due = True
        return self._respond(self._rules.phrases.goodbye, now)

    def spent(self, usd: float, now: float) -> list[Action]:
        """The call cost this much more."""
        self._spent_usd += usd
        budget = self._rules.budget_usd
        return self.end_politely(Why.BUDGET, now) if budget is not None and self._spent_usd >= budget else []

    def tool_done(self, took_ms: float, now: float) -> None:
        """A tool that `RunTool` started has returned."""
        self._tools -= 1
        self._quiet_since = now
        self.latency.tools_ms += took_ms

    def backend_lost(self) -> None:
        """The model connection is gone; what was received may still be played."""
        if self._active is not None:
            self._cut.add(self._active)
        self._active = None
        self._caller_speaking = False
        self._dead.clear()
        self._settle()

    # -- the backend ------------------------------------------------------------------------------------

    def accepts(self, response: str, item: str, now: float) -> bool:
        """Whether reply audio of this response may go to the ledger; False once it was interrupted."""
        if response in self._dead:
            self._unheard.setdefault(item, response)
            return False
        if self.phase is not Phase.SPEAKING or response not in self._playing:
            self.phase = Phase.SPEAKING
            self._playing.add(response)
            self.latency.first_delta(response, now)
        if item not in self._unheard and item not in self._heard_items:
            self._unheard[item] = response
        self._failures = 0
        return True

    def on_backend(self, event: BackendEvent, now: float) -> list[Action]:
        """Any backend event but audio and transcript deltas, which the shell routes itself."""
        self._quiet_since = now
        match event:
            case SpeechStarted(item):
                self._caller_speaking = True
                return [PublishCallerSpoke(item), *self._interrupt()]
            case SpeechStopped():
                self._caller_speaking = False
                self.latency.caller_stopped(now)
                if self.phase is Phase.LISTENING and self._can.server_turns:
                    self.phase = Phase.THINKING
                return []
            case CallerTranscript(item, text, failed):
                return [PublishCallerTurn(item, text, failed)]
            case ResponseStarted(response, asked):
                self._active = response
                self._goodbye_due = self._goodbye_due and not asked
                if self.phase is Phase.LISTENING:
                    self.phase = Phase.THINKING
                return []
            case ToolRequested(_, tool_call_id, name, arguments):  # of a completed response, interrupted or not
                self._tools += 1
                return [RunTool(tool_call_id, name, arguments)]
            case ResponseEnded():
                return self._response_ended(event, now)
            case Trouble(code, detail):
                return [NoteTrouble(code, detail)]
            case _:
                return []

    def _response_ended(self, event: ResponseEnded, now: float) -> list[Action]:
        if self._active == event.response:
            self._active = None
        if event.response in self._dead:
            self._dead.discard(event.response)
            self._settle()
            if self._flushing:  # what was heard of it is not known yet
                self._to_forget.append(event)
                return []
            return self._forget_unheard(event)
        actions: list[Action] = []
        if event.status == "failed":
            self._failures += 1
            actions.append(NoteTrouble("response_failed", event.detail))
            if self._failures >= FAILED_RESPONSES:
                return [*actions, Fail(event.detail)]
            if event.response not in self._playing:
                self._retry_at = now + RETRY_S * self._failures
        self._settle()
        return [*actions, *self._hang_up_when_quiet()]

    def _forget_unheard(self, event: ResponseEnded) -> list[Action]:
        """Items of an interrupted response that no flush reported: nothing of them was ever sent."""
        unheard = [item for item, response in self._unheard.items() if response == event.response]
        unheard += [item for item in event.items if item not in self._heard_items and item not in unheard]
        for item in unheard:
            self._unheard.pop(item, None)
        self._heard_items.difference_update(event.items)
        return [DeleteItem(item) for item in unheard] if self._can.truncate else []

    # -- barge-in --------------------------------------------------------------------------------------

    def _interrupt(self) -> list[Action]:
        if not self._rules.interruptible or self._ending is not None:
            return []
        if self._active is None and not self._playing:
            return []
        actions: list[Action] = []
        if self._playing:
            self._flushing = True
            actions.append(FlushPlayout())
        if self._active is not None:
            self._dead.add(self._active)
            if not self._can.server_interrupts:
                actions.append(CancelResponse(self._active))
        self._playing.clear()
        self.phase = Phase.LISTENING
        self.latency.reset()
        return actions

    def on_playout(self, event: PlayoutEvent, now: float) -> list[Action]:
        """What the ledger learnt from an `up` frame."""
        match event:
            case PartBegan(part):
                item = part.key[0]
                self._heard_items.add(item)
                self._unheard.pop(item, None)
                measured = self.latency.heard(part.response, now)
                return [PublishLatency(measured)] if measured is not None else []
            case PartDone(part):
                self._text.learn(part.key, part.received)
                return [self._agent_turn(part, interrupted=part.response in self._cut)]
            case Flushed(parts):
                self._flushing = False
                ended, self._to_forget = self._to_forget, []
                return [
                    *(action for part in parts for action in self._correct(part)),
                    *(action for response in ended for action in self._forget_unheard(response)),
                ]
            case Drained():
                self._playing.clear()
                if self._active is None:
                    self._heard_items.clear()
                self._settle()
                return [*self._hang_up_when_quiet(), *self._maybe_hand_over(now)]

    def _correct(self, part: Part) -> list[Action]:
        """Make the model believe what was heard, no more and no less."""
        item, content_index = part.key
        self._unheard.pop(item, None)
        if part.complete:
            return [self._agent_turn(part, interrupted=False)]
        actions: list[Action] = []
        heard_ms = min(int(part.heard / self._per_ms), int(part.received / self._per_ms))
        if not self._can.truncate:
            pass
        elif heard_ms > 0:
            actions.append(Truncate(item, content_index, heard_ms))
        elif item not in self._heard_items:
            actions.append(DeleteItem(item))
        self._heard_items.add(item)  # dealt with: not to be deleted again when the response ends
        return [*actions, self._agent_turn(part, interrupted=True)]

    def _agent_turn(self, part: Part, *, interrupted: bool) -> PublishAgentTurn:
        whole = self._text.text(part.key)
        heard = self._text.heard_text(part.key, part.heard, part.received, part.ended) if interrupted else whole
        self._text.drop(part.key)
        return PublishAgentTurn(
            item=part.key[0],
            response=part.response,
            text=whole,
            heard_text=heard,
            interrupted=interrupted,
            audio_ms=part.received / self._per_ms,
            heard_ms=part.heard / self._per_ms,
            from_sample=max(0, part.from_sample),
        )

    # -- time ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Limits and deadlines; called about ten times a second."""
        if self._over:
            return []
        if self._ending is not None:
            return self._hang_up() if now >= self._last_words_by else []
        if self._end_at is not None and now >= self._end_at:
            return self.end_politely(Why.MAX_DURATION, now)
        if self.phase is Phase.THINKING and not self._tools and now - self._quiet_since > STALL_S:
            self._quiet_since = now
            return [Fail("the model gave no sign of life while an answer was due", reconnect=True)]
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            return self._respond(None, now)
        if self._digits and now - self._digits_at > DIGITS_PAUSE_S:
            digits, self._digits = self._digits, ""
            return self._respond(self._rules.phrases.pressed(digits), now)
        return self._maybe_hand_over(now)

    def is_dead(self, response: str) -> bool:
        """Whether a response was interrupted: what still arrives of it is dropped."""
        return response in self._dead

    def _respond(self, instructions: str | None, now: float) -> list[Action]:
        self._quiet_since = now
        if self.phase is Phase.LISTENING:
            self.phase = Phase.THINKING
        return [StartResponse(instructions)]

    def _settle(self) -> None:
        """After a response or its audio ended: back to listening, if nothing else goes on."""
        if self._playing:
            self.phase = Phase.SPEAKING
        elif self._active is not None or self._tools:
            self.phase = Phase.THINKING
        else:
            self.phase = Phase.LISTENING

    def _hang_up_when_quiet(self) -> list[Action]:
        quiet = self._active is None and not self._playing and not self._tools
        return self._hang_up() if self._ending is not None and not self._goodbye_due and quiet else []

    def _hang_up(self) -> list[Action]:
        if self._over or self._ending is None:
            return []
        self._over = True
        return [HangUp(self._ending)]

    def _maybe_hand_over(self, now: float) -> list[Action]:
        if self._hand_over_by is None or self._over:
            return []
        pause = self.phase is Phase.LISTENING and not self._caller_speaking and not self._tools
        if not pause and now < self._hand_over_by:
            return []
        self._over = True
        return [HandOver()]
