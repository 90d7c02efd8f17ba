"""The turn machine of one call: who speaks, what a barge-in does, when the call ends politely.

Theory of operation. Four phases, seen from the agent: *listening*, *thinking* (a response is under way and
nothing of it plays yet), *speaking* (audio was accepted and the ledger has not drained) and *parked* (the voice was
stopped by a sound of the caller that may be an interruption). Inputs are the backend's events, the ledger's events,
a few commands and `tick(now)`; each returns a list of actions for the shell.

Barge-in: when the caller interrupts while a response lives or its audio plays, every living response is declared
dead (its later deltas are refused by `accepts`, also after its end), the playout is flushed, and the response is
cancelled unless the backend does that by itself. The model's memory is corrected (`spoken`) when the gateway has said
where playback stopped (`Flushed`); an answer is asked for only after that. What an interruption is, the model's server
decides, or, with `barge_in: local`, `caller_turns`.

A response of which nothing can be heard is asked for again (`attempts`). How the call ends is `polite_end`'s
matter; the last words cannot be interrupted.
"""

from __future__ import annotations

from services.ai_session import actions as do
from services.ai_session.actions import Action, PlayLocal, StartResponse, Why
from services.ai_session.answering import Answering, Ask
from services.ai_session.answering_machine import Found
from services.ai_session.attempts import Attempts
from services.ai_session.backends import port
from services.ai_session.call_limits import CallLimits
from services.ai_session.caller_turns import CallerTurns
from services.ai_session.floor import Floor, Phase
from services.ai_session.handing_over import HandingOver
from services.ai_session.history import GoOn
from services.ai_session.interruption import Verdict
from services.ai_session.keys import Keys
from services.ai_session.language import CallerLanguage
from services.ai_session.latency import LatencyProbe
from services.ai_session.phrases import Phrases, Told, Verbatim, Wish
from services.ai_session.playout import Drained, Flushed, Parked, PartBegan, PartDone, PlayoutEvent
from services.ai_session.polite_end import PoliteEnd, Step
from services.ai_session.rate_limit import RateLimit
from services.ai_session.silence import SilenceBreaker
from services.ai_session.speech_text import SpeechText
from services.ai_session.spoken import Spoken
from services.ai_session.turn_rules import TurnRules

STALL_S = 20.0  # thinking without any sign of life


class TurnMachine:
    """One call's turns. `text` is shared with the shell, which fills it from the backend's transcripts."""

    def __init__(
        self, rules: TurnRules, can: port.Capabilities, text: SpeechText, rate_hz: int, limit: RateLimit | None = None
    ) -> None:
        self._rules = rules
        self._can = can
        self.phase = Phase.LISTENING
        self.latency = LatencyProbe()
        self.spoken = Spoken(text, can_truncate=can.truncate, samples_per_ms=rate_hz / 1000)
        self._attempts = Attempts(limit)
        answering = Answering(asks=not can.answers, needs_transcript=can.needs_transcript)
        self._caller = CallerTurns(answering, rules.interruption(can))
        self._limits = CallLimits(max_duration_s=rules.max_duration_s, budget_usd=rules.budget_usd)
        self._handing_over = HandingOver()
        self._keys = Keys()
        self._silence = SilenceBreaker(rules.idle, rules.fillers)
        self._language = CallerLanguage(rules.languages)
        self._end = PoliteEnd()
        self.floor = Floor()
        self._flushing = False  # what was heard is not known, nor is it to the model
        self._awaited = False  # the model was to begin when the worker said something by itself
        self._is_on_air = False  # caller and agent hear each other
        self._is_machine = False  # nothing but the message is for it
        # On hold, muted, or the caller is being connected: silence is not the agent's to break.
        self.is_set_aside = False
        self._tools = 0
        self._quiet_since = 0.0  # last sign of life while thinking

    # -- beginning and commands -----------------------------------------------------------------------

    def begin(self, go_on: GoOn, talked_s: float, now: float) -> list[Action]:
        """The call is answered, or this session took it over after `talked_s` seconds of talk."""
        self._limits.begin(talked_s, now)
        self._is_on_air = True
        if self._end.is_near:
            self._end.connection_replaced()
            return self._step_end(now)
        words = self._rules.first_words(go_on)
        return self._respond(words, now) if words is not None or go_on is GoOn.ANSWER else []

    def say(self, text: str, now: float) -> list[Action]:
        """Somebody wants the agent to say this."""
        return self._respond(Verbatim(text), now)

    def transfer_failed(self, now: float) -> list[Action]:
        """The caller should have been connected with somebody else, and is back with the agent."""
        return [] if self._end.is_near else self._respond(self._rules.phrases.transfer_failed, now)

    def pressed(self, digit: str, now: float) -> list[Action]:
        """The caller pressed a key; a group of keys is told to the model when it is complete."""
        self._silence.caller.caller_acted()
        return self._tell_keys(self._keys.pressed(digit, now), now)

    def drain(self, patience_s: float, now: float) -> list[Action]:
        """The worker shuts down: hand the call over at the next pause, at the latest after `patience_s` (R9)."""
        self._handing_over.wanted(patience_s, now)
        return self._maybe_hand_over(now)

    def end_politely(self, why: Why, now: float) -> list[Action]:
        """Say goodbye and hang up when that was heard."""
        words = None if why is Why.AGENT and self.floor.has_spoken else self._rules.last_words(why)
        if not self._end.begin(why, now, words):
            return []
        return [*self._resume(now), *self._step_end(now)]  # the last words are not interrupted

    def answered_by(self, found: Found, now: float) -> list[Action]:
        """Who took an outbound call; what a machine is told waits until it is ready."""
        self._is_machine = found is not Found.PERSON
        if found is Found.MACHINE and self._rules.message and not self._end.is_near:
            return [*self._resume(now), *self._cut_off(cancel=True)]
        return self.end_politely(Why.MACHINE, now) if self._is_machine else []

    def spent(self, usd: float, now: float) -> list[Action]:
        """The call cost this much more."""
        why = self._limits.spent(usd)
        return self.end_politely(why, now) if why is not None else []

    def tool_done(self, now: float) -> list[Action]:
        """A tool that `RunTool` started has returned."""
        self._tools -= 1
        self._quiet_since = now
        if not self._tools:
            self.latency.tools_ended(now)
        return self._step_end(now)

    def backend_lost(self, now: float) -> list[Action]:
        """The model connection is gone; what was received may still be played."""
        resumed = self._resume(now)
        self.spoken.connection_lost(self.floor.lost())
        self._attempts.forget()
        self._caller.forget()
        self._awaited = False
        self._settle()
        return resumed

    # -- the backend ------------------------------------------------------------------------------------

    def accepts(self, response: str, item: str, now: float) -> bool:
        """Whether reply audio of this response may go to the ledger; False once it was interrupted or is over."""
        floor = self.floor
        if floor.is_over(response):
            return False
        self.spoken.produced(item, response)
        if floor.is_dead(response):
            return False
        if floor.audio(response):
            self.latency.first_delta(response, now)
        if self.phase is not Phase.PARKED:
            self.phase = Phase.SPEAKING
        self._attempts.spoke(response)
        return True

    def plays_local(self, response: str) -> None:
        """The worker had ready what `PlayLocal` asked for, and it goes to the ledger."""
        self._awaited = self.phase is Phase.THINKING
        self.floor.audio(response, is_answer=False)
        self._settle()

    def on_backend(self, event: port.BackendEvent, now: float) -> list[Action]:
        """Any backend event but audio and transcript deltas, which the shell routes itself."""
        self._quiet_since = now
        match event:
            case port.SpeechStarted(item):
                self._attempts.caller_spoke(is_answered=self._can.answers)
                self.floor.caller_spoke()
                self._silence.caller.caller_acted()
                self._caller.began(item)
                return [do.PublishCallerSpoke(item), *self._may_interrupt(now)]
            case port.SpeechStopped(item):
                self.latency.caller_stopped(now)
                verdict = self._caller.stopped(item, now)
                if self.phase is Phase.LISTENING and self._can.server_turns:
                    self.phase = Phase.THINKING
                return [*self._carry_out(verdict, now), *self._answer(now)]
            case port.SpeechDiscarded(item):
                return self._turn_judged(self._caller.discarded(item, now), now)
            case port.CallerTranscript(item, text, failed):
                self._language.heard(text, event.language)
                verdict = self._caller.transcribed(item, text, now, failed=failed)
                return [do.PublishCallerTurn(item, text, failed), *self._turn_judged(verdict, now)]
            case port.ResponseStarted(response, asked):
                return self._response_started(response, asked, now)
            case port.ToolRequested(response, tool_call_id, name, arguments):  # the response may be interrupted
                if not self._tools:
                    self.latency.tools_began(now)
                self._tools += 1
                self._attempts.gave(response)
                return [do.RunTool(tool_call_id, name, arguments)]
            case port.ServerToolBegan(response):
                self._attempts.gave(response)
                return []
            case port.ResponseEnded():
                return self._response_ended(event, now)
            case port.Trouble(code, detail):
                return [do.NoteTrouble(code, detail)]
            case _:
                return []

    def _response_started(self, response: str, asked: bool, now: float) -> list[Action]:
        if not asked and self.phase is Phase.LISTENING:  # nobody asked, nobody spoke: the server's idle timeout
            self._silence.caller.prompted()
        self.floor.started(response)
        self._awaited = False
        self._attempts.began(response, asked=asked)
        if self._end.is_parting or (self._is_machine and not (asked and self._end.is_near)):  # an answer to nobody
            self.floor.give_up(response)
            return [do.CancelResponse(response)]
        if asked:
            self._end.response_began(now)
        if self.phase is Phase.LISTENING:
            self.phase = Phase.THINKING
        return self._may_interrupt(now) if self._caller.decides and self._caller.is_speaking else []

    def _response_ended(self, event: port.ResponseEnded, now: float) -> list[Action]:
        if self.floor.is_over(event.response):
            return []
        self.floor.ended(event.response)
        self._awaited = False
        resumed = self._resume(now) if not self.floor.is_taken else []  # of a response without audio
        self._settle()
        if self.floor.is_dead(event.response):
            self._attempts.interrupted_ended(event.response)
            return [*resumed, *self.spoken.interrupted_response_ended(event), *self._step_end(now)]
        if event.status == "cancelled":  # by the server, which yields to the caller: its end was never spoken
            self.spoken.connection_lost(event.response)
        may_repeat = not (self._caller.is_speaking and self._can.answers) and not self._end.is_near
        in_vain, actions = self._attempts.ended(event, now, may_repeat=may_repeat)
        if in_vain:
            self._end.response_failed(now)
        return [*resumed, *actions, *self._step_end(now)]

    # -- barge-in --------------------------------------------------------------------------------------

    def _may_interrupt(self, now: float) -> list[Action]:
        """The caller speaks: the server has cut the agent off, or the worker has to judge that."""
        if not self._rules.interruptible or self._can.owns_turns or self._end.is_near or not self.floor.is_taken:
            return []
        if self._caller.decides:
            return self._carry_out(self._caller.agent_has_floor(now), now)
        return self._cut_off(cancel=not self._can.server_interrupts)

    def _carry_out(self, verdict: Verdict, now: float) -> list[Action]:
        match verdict:
            case Verdict.PARK:
                self.phase = Phase.PARKED
                return [do.ParkPlayout()]
            case Verdict.RESUME:
                return self._go_on()
            case Verdict.INTERRUPTED:
                return self._cut_off(cancel=True)
            case Verdict.NOTHING:
                return []

    def _turn_judged(self, verdict: Verdict, now: float) -> list[Action]:
        """After a turn of the caller that may have been none, or may want no answer."""
        actions = self._carry_out(verdict, now)
        if not (self._can.answers or self._caller.answer_is_due or self._attempts.is_waiting):
            self._settle()
        return [*actions, *self._answer(now)]

    def _resume(self, now: float) -> list[Action]:
        """Go on without a verdict, if the voice is parked."""
        if self.phase is not Phase.PARKED:
            return []
        self._caller.agent_yields(now)
        return self._go_on()

    def _go_on(self) -> list[Action]:
        self.phase = Phase.LISTENING
        self._settle()
        return [do.ResumePlayout()]

    def _cut_off(self, *, cancel: bool) -> list[Action]:
        actions: list[Action] = [do.ResumePlayout()] if self.phase is Phase.PARKED else []
        plays, response = self.floor.cut_off()
        if plays:
            self._flushing = True
            self.spoken.flush_began()
            actions = [do.FlushPlayout()]
        if response is not None and cancel:
            actions.append(do.CancelResponse(response))
        self._awaited = False
        self.phase = Phase.LISTENING
        self.latency.reset()
        return actions

    def on_playout(self, event: PlayoutEvent, now: float) -> list[Action]:
        """What the ledger learnt from an `up` frame."""
        match event:
            case PartBegan(part):
                self.spoken.began(part)
                measured = self.latency.heard(part.response, now)
                return [do.PublishLatency(measured)] if measured is not None else []
            case PartDone(part):
                return self.spoken.done(part)
            case Flushed(parts):
                self._flushing = False
                return [*self.spoken.flushed(parts), *self._answer(now)]
            case Parked(unheard_ms, is_open):
                self._caller.voice_stopped(unheard_ms, more=is_open or self.floor.active is not None)
                return []
            case Drained():
                self.floor.drained()
                self.spoken.drained(self.floor.active)
                resumed = self._resume(now) if not self.floor.is_taken else []
                self._settle()
                return [*resumed, *self._step_end(now), *self._answer(now), *self._maybe_hand_over(now)]

    # -- time ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Limits and deadlines; called about ten times a second."""
        if self._end.is_near:
            return [*self._step_end(now), *self._maybe_hand_over(now)]
        if (why := self._limits.tick(now)) is not None:
            return self.end_politely(why, now)
        is_busy = self._tools or self._caller.is_speaking or self._attempts.is_planned
        if self.phase is Phase.THINKING and not is_busy and now - self._quiet_since > STALL_S:
            self._quiet_since = now
            return [do.Fail("the model gave no sign of life while an answer was due", reconnect=True)]
        again, wish = self._attempts.due(now) if self._caller.is_settled else (False, None)
        if again:
            return self._respond(wish, now, again=True)
        if digits := self._keys.due(now):
            return self._tell_keys(digits, now)
        judged = self._turn_judged(self._caller.tick(now), now)
        return [*judged, *self._break_silence(now), *self._maybe_hand_over(now)]

    def _break_silence(self, now: float) -> list[Action]:
        silent = not (self.floor.is_playing or self._caller.is_speaking or self.is_set_aside or self._is_machine)
        ours = self._tools > 0 or self._attempts.is_planned or self.phase is Phase.THINKING or self._awaited
        idle = self._is_on_air and self.phase is Phase.LISTENING and not self._keys.waiting
        match self._silence.tick(now, silent=silent, ours=ours, idle=idle):
            case PlayLocal() as filler:
                return [filler]
            case Verbatim() as prompt:
                return self._respond(self._language.of(prompt), now)
            case Why() as why:
                return self.end_politely(why, now)
            case None:
                return []

    def _respond(self, wish: Wish, now: float, *, again: bool = False) -> list[Action]:
        if not (again or self._end.is_near) and self._attempts.must_wait(wish, now):
            return []
        self._quiet_since = now
        if self.phase is Phase.LISTENING:
            self.phase = Phase.THINKING
        self._attempts.requested(wish)
        return [StartResponse(wish)]

    def _tell_keys(self, digits: str, now: float) -> list[Action]:
        return self._respond(Told(Phrases.keys(digits)), now) if digits and not self._end.is_near else []

    def _answer(self, now: float) -> list[Action]:
        """Ask for the answer that the caller is owed, of a model that does not answer by itself."""
        if self._end.is_near or self._flushing or self._is_machine:
            return []
        if (ask := self._caller.due(now)) is Ask.NOTHING:
            return []
        self._attempts.caller_spoke(is_answered=True)
        return self._respond(None if ask is Ask.ANSWER else self._rules.phrases.not_understood, now)

    def _settle(self) -> None:
        """After a response or its audio ended: back to listening, if nothing else goes on."""
        if self._caller.is_parked:
            self.phase = Phase.PARKED
        elif self.floor.is_playing:
            self.phase = Phase.SPEAKING
        elif self.floor.active is not None or self._tools or self._awaited or self._caller.answer_is_due:
            self.phase = Phase.THINKING
        else:
            self.phase = Phase.LISTENING

    def _step_end(self, now: float) -> list[Action]:
        """Go on with the polite end, if the call has come to that."""
        goodbye, due = self._language.of(self._rules.last_words(self._end.why)), self.phase is Phase.THINKING
        match self._end.next(speaking=self.floor.is_busy, answer_due=due, tools=self._tools > 0, now=now):
            case Step.ASK:
                return self._respond(goodbye, now)
            case Step.CUT_AND_ASK:
                return [*self._cut_off(cancel=True), *self._respond(goodbye, now)]
            case Step.HANG_UP if self._end.why is not None:
                return [do.HangUp(self._end.why)]
            case _:
                return []

    def _maybe_hand_over(self, now: float) -> list[Action]:
        listening = self.phase is Phase.LISTENING and not self._caller.is_speaking and not self._tools
        is_due = not self._end.is_over and self._handing_over.due(now, at_pause=listening and not self._end.is_near)
        return [do.HandOver()] if is_due else []
