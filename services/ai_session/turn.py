"""The turn machine of one call: who speaks, what a barge-in does, when the call ends politely.

Theory of operation. Three phases, seen from the agent: *listening*, *thinking* (a response is under way and
nothing of it plays yet) and *speaking* (audio was accepted and the ledger has not drained). Inputs are the
backend's events, the ledger's events, a few commands and `tick(now)`; each returns a list of actions for
the shell. Nothing here waits, knows the clock or touches the bus.

Barge-in: when the caller starts to speak while a response lives or its audio plays, every living response
is declared dead (its later deltas are refused by `accepts`, also after its end), the playout is flushed, and the
response is cancelled unless the backend does that by itself. `memory` corrects the model's memory when the
gateway has said where playback stopped (`Flushed`).

A response of which nothing can be heard is asked for again (`attempts`). How the call ends is `polite_end`'s
matter; the last words cannot be interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from services.ai_session.actions import (
    Action,
    CancelResponse,
    Fail,
    FlushPlayout,
    HandOver,
    HangUp,
    NoteTrouble,
    PublishCallerSpoke,
    PublishCallerTurn,
    PublishLatency,
    RunTool,
    StartResponse,
    Why,
)
from services.ai_session.answering import Answering, Ask
from services.ai_session.attempts import Attempts
from services.ai_session.backends.port import (
    BackendEvent,
    CallerTranscript,
    Capabilities,
    ResponseEnded,
    ResponseStarted,
    SpeechDiscarded,
    SpeechStarted,
    SpeechStopped,
    ToolRequested,
    Trouble,
)
from services.ai_session.handing_over import HandingOver
from services.ai_session.history import GoOn
from services.ai_session.keys import Keys
from services.ai_session.latency import LatencyProbe
from services.ai_session.memory import RecentIds
from services.ai_session.phrases import Phrases, Verbatim, Wish
from services.ai_session.playout import Drained, Flushed, PartBegan, PartDone, PlayoutEvent
from services.ai_session.polite_end import PoliteEnd, Step
from services.ai_session.speech_text import SpeechText
from services.ai_session.spoken import Spoken

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
        self.phase = Phase.LISTENING
        self.latency = LatencyProbe()
        self.spoken = Spoken(text, can_truncate=capabilities.truncate, samples_per_ms=rate_hz / 1000)
        self._attempts = Attempts()
        self._answering = Answering(needs_transcript=capabilities.needs_transcript)
        self._handing_over = HandingOver()
        self._keys = Keys()
        self._end = PoliteEnd()
        self._active: str | None = None  # the response that the model works on
        self._playing: set[str] = set()  # responses with audio that is not heard yet
        self._dead = RecentIds()  # interrupted responses
        self._ended = RecentIds()
        self._caller_speaking = False
        self._tools = 0
        self._quiet_since = 0.0  # last sign of life while thinking
        self._spent_usd = 0.0
        self._end_at: float | None = None

    # -- beginning and commands -----------------------------------------------------------------------

    def begin(self, go_on: GoOn, talked_s: float, now: float) -> list[Action]:
        """The call is answered, or this session took it over after `talked_s` seconds of talk."""
        if self._end_at is None:
            self._end_at = now + max(0.0, self._rules.max_duration_s - talked_s)
        if self._end.is_near:
            self._end.connection_replaced()
            return self._step_end(now)
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
            case GoOn.COME_BACK:
                return self._respond(phrases.come_back, now)

    def say(self, text: str, now: float) -> list[Action]:
        """Somebody wants the agent to say this."""
        return self._respond(Verbatim(text), now)

    def transfer_failed(self, now: float) -> list[Action]:
        """The caller should have been connected with somebody else, and is back with the agent."""
        return [] if self._end.is_near else self._respond(self._rules.phrases.transfer_failed, now)

    def pressed(self, digit: str, now: float) -> list[Action]:
        """The caller pressed a key; a group of keys is told to the model when it is complete."""
        return self._tell_keys(self._keys.pressed(digit, now), now)

    def drain(self, patience_s: float, now: float) -> list[Action]:
        """The worker shuts down: hand the call over at the next pause, at the latest after `patience_s` (R9)."""
        self._handing_over.wanted(patience_s, now)
        return self._maybe_hand_over(now)

    def end_politely(self, why: Why, now: float) -> list[Action]:
        """Say goodbye and hang up when that was heard."""
        return self._step_end(now) if self._end.begin(why, now) else []

    def spent(self, usd: float, now: float) -> list[Action]:
        """The call cost this much more."""
        self._spent_usd += usd
        budget = self._rules.budget_usd
        return self.end_politely(Why.BUDGET, now) if budget is not None and self._spent_usd >= budget else []

    def tool_done(self, now: float) -> list[Action]:
        """A tool that `RunTool` started has returned."""
        self._tools -= 1
        self._quiet_since = now
        if not self._tools:
            self.latency.tools_ended(now)
        return self._step_end(now)

    def backend_lost(self) -> None:
        """The model connection is gone; what was received may still be played."""
        self.spoken.connection_lost(self._active)
        self._active = None
        self._caller_speaking = False
        self._dead.clear()  # the next connection has its own names
        self._ended.clear()
        self._attempts.forget()
        self._answering.forget()
        self._settle()

    # -- the backend ------------------------------------------------------------------------------------

    def accepts(self, response: str, item: str, now: float) -> bool:
        """Whether reply audio of this response may go to the ledger; False once it was interrupted or is over."""
        if response in self._ended:
            return False
        self.spoken.produced(item, response)
        if response in self._dead:
            return False
        if self.phase is not Phase.SPEAKING or response not in self._playing:
            self.phase = Phase.SPEAKING
            self._playing.add(response)
            self.latency.first_delta(response, now)
        self._attempts.spoke(response)
        return True

    def on_backend(self, event: BackendEvent, now: float) -> list[Action]:
        """Any backend event but audio and transcript deltas, which the shell routes itself."""
        self._quiet_since = now
        match event:
            case SpeechStarted(item):
                self._caller_speaking = True
                self._attempts.caller_spoke()
                self._answering.began(item)
                return [PublishCallerSpoke(item), *self._interrupt()]
            case SpeechStopped(item):
                self._caller_speaking = False
                self.latency.caller_stopped(now)
                self._answering.stopped(item, now)
                if self.phase is Phase.LISTENING and self._can.server_turns:
                    self.phase = Phase.THINKING
                return self._answer(now)
            case SpeechDiscarded(item):
                self._caller_speaking = False
                self._answering.dropped(item)
                self._settle_turn()
                return self._answer(now)
            case CallerTranscript(item, text, failed):
                self._answering.transcribed(item, text, failed=failed)
                self._settle_turn()
                return [PublishCallerTurn(item, text, failed), *self._answer(now)]
            case ResponseStarted(response, asked):
                self._response_started(response, asked, now)
                return []
            case ToolRequested(response, tool_call_id, name, arguments):  # of a completed response, interrupted or not
                if not self._tools:
                    self.latency.tools_began(now)
                self._tools += 1
                self._attempts.gave(response)
                return [RunTool(tool_call_id, name, arguments)]
            case ResponseEnded():
                return self._response_ended(event, now)
            case Trouble(code, detail):
                return [NoteTrouble(code, detail)]
            case _:
                return []

    def _response_started(self, response: str, asked: bool, now: float) -> None:
        self._active = response
        self._dead.discard(response)
        self._ended.discard(response)
        self._attempts.began(response, asked=asked)
        if asked:
            self._end.response_began(now)
        if self.phase is Phase.LISTENING:
            self.phase = Phase.THINKING

    def _response_ended(self, event: ResponseEnded, now: float) -> list[Action]:
        if event.response in self._ended:
            return []
        self._ended.add(event.response)
        if self._active == event.response:
            self._active = None
        self._settle()
        if event.response in self._dead:
            self._attempts.interrupted_ended(event.response)
            return [*self.spoken.interrupted_response_ended(event), *self._step_end(now)]
        may_repeat = not self._caller_speaking and not self._end.is_near
        in_vain, actions = self._attempts.ended(event, now, may_repeat=may_repeat)
        if in_vain:
            self._end.response_failed(now)
        return [*actions, *self._step_end(now)]

    # -- barge-in --------------------------------------------------------------------------------------

    def _interrupt(self) -> list[Action]:
        if not self._rules.interruptible or self._end.is_near:
            return []
        if not self._playing and (self._active is None or self._active in self._dead):
            return []
        return self._cut_off(cancel=not self._can.server_interrupts)

    def _cut_off(self, *, cancel: bool) -> list[Action]:
        actions: list[Action] = []
        if self._playing:
            self.spoken.flush_began()
            actions.append(FlushPlayout())
        if self._active is not None:
            self._dead.add(self._active)
            if cancel:
                actions.append(CancelResponse(self._active))
        self._playing.clear()
        self.phase = Phase.LISTENING
        self.latency.reset()
        return actions

    def on_playout(self, event: PlayoutEvent, now: float) -> list[Action]:
        """What the ledger learnt from an `up` frame."""
        match event:
            case PartBegan(part):
                self.spoken.began(part)
                measured = self.latency.heard(part.response, now)
                return [PublishLatency(measured)] if measured is not None else []
            case PartDone(part):
                return self.spoken.done(part)
            case Flushed(parts):
                return self.spoken.flushed(parts)
            case Drained():
                self._playing.clear()
                self.spoken.drained(self._active)
                self._settle()
                return [*self._step_end(now), *self._maybe_hand_over(now)]

    # -- time ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Limits and deadlines; called about ten times a second."""
        if self._end.is_near:
            return [*self._step_end(now), *self._maybe_hand_over(now)]
        if self._end_at is not None and now >= self._end_at:
            return self.end_politely(Why.MAX_DURATION, now)
        idle = self.phase is Phase.THINKING and not self._tools and not self._caller_speaking
        if idle and now - self._quiet_since > STALL_S:
            self._quiet_since = now
            return [Fail("the model gave no sign of life while an answer was due", reconnect=True)]
        again, wish = self._attempts.due(now)
        if again:
            return self._respond(wish, now)
        if digits := self._keys.due(now):
            return self._tell_keys(digits, now)
        return [*self._answer(now), *self._maybe_hand_over(now)]

    def is_dead(self, response: str) -> bool:
        """Whether a response was interrupted: what still arrives of it is dropped."""
        return response in self._dead

    def _respond(self, wish: Wish, now: float) -> list[Action]:
        self._quiet_since = now
        if self.phase is Phase.LISTENING:
            self.phase = Phase.THINKING
        self._attempts.requested(wish)
        return [StartResponse(wish)]

    def _tell_keys(self, digits: str, now: float) -> list[Action]:
        return self._respond(self._rules.phrases.pressed(digits), now) if digits and not self._end.is_near else []

    def _answer(self, now: float) -> list[Action]:
        """Ask for the answer that the caller is owed, of a model that does not answer by itself."""
        if self._can.answers or self._end.is_near:
            return []
        match self._answering.due(now):
            case Ask.ANSWER:
                return self._respond(None, now)
            case Ask.REPETITION:
                return self._respond(self._rules.phrases.not_understood, now)
            case Ask.NOTHING:
                return []

    def _settle(self) -> None:
        """After a response or its audio ended: back to listening, if nothing else goes on."""
        if self._playing:
            self.phase = Phase.SPEAKING
        elif self._active is not None or self._tools:
            self.phase = Phase.THINKING
        else:
            self.phase = Phase.LISTENING

    def _settle_turn(self) -> None:
        """After a turn of the caller that may want no answer."""
        if not (self._can.answers or self._answering.is_due or self._attempts.is_waiting):
            self._settle()

    def _step_end(self, now: float) -> list[Action]:
        """Go on with the polite end, if the call has come to that."""
        speaking = self._active is not None or bool(self._playing)
        answer_due = self.phase is Phase.THINKING
        match self._end.next(speaking=speaking, answer_due=answer_due, tools=self._tools > 0, now=now):
            case Step.ASK:
                return self._respond(self._rules.phrases.goodbye, now)
            case Step.CUT_AND_ASK:
                return [*self._cut_off(cancel=True), *self._respond(self._rules.phrases.goodbye, now)]
            case Step.HANG_UP if self._end.why is not None:
                return [HangUp(self._end.why)]
            case _:
                return []

    def _maybe_hand_over(self, now: float) -> list[Action]:
        if self._end.is_over:
            return []
        listening = self.phase is Phase.LISTENING and not self._caller_speaking and not self._tools
        return [HandOver()] if self._handing_over.due(now, at_pause=listening and not self._end.is_near) else []
