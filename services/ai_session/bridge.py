"""The hot path of one call: `up` frames to the model, reply audio through the ledger to `dn` frames.

Everything here is synchronous and never waits; it is driven by arriving frames, by backend events and
by the worker's shared ticker. What needs waiting (tools, commands to the leg, reconnects) goes up
through `escalate`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from libs.contracts.events import (
    AgentText,
    AgentTurn,
    CallAnsweredBy,
    CallerSpoke,
    CallerTurn,
    LatencyMeasured,
    SessionTrouble,
    UsageReported,
)
from libs.contracts.frame import AudioFrame, Codec, Flag, pack
from libs.contracts.offer import CallState, Offer
from services.ai_session.actions import (
    Action,
    CancelResponse,
    DeleteItem,
    Fail,
    FlushPlayout,
    HandOver,
    HangUp,
    NoteTrouble,
    ParkPlayout,
    PlayLocal,
    PublishAgentTurn,
    PublishCallerSpoke,
    PublishCallerTurn,
    PublishLatency,
    ResumePlayout,
    RunTool,
    StartResponse,
    Truncate,
)
from services.ai_session.answering_machine import Finding, Found, watch_for
from services.ai_session.backends.port import (
    AudioDelta,
    AudioEnded,
    BackendEvent,
    CallerTranscript,
    Capabilities,
    ContinuousAudio,
    LimitUsedUp,
    Lost,
    ResponseEnded,
    SpeechBackend,
    TextDelta,
    TextEnded,
    UsageCounted,
)
from services.ai_session.endpointing import Endpointing
from services.ai_session.journal import Journal
from services.ai_session.playout import Drained, OutFrame, Part, Playout
from services.ai_session.rate_limit import RateLimit
from services.ai_session.speech_text import SpeechText
from services.ai_session.spoken import LOCAL
from services.ai_session.turn import TurnMachine
from services.ai_session.turn_rules import TurnRules

HOLD_SILENCE_FRAMES = 100  # 2 s: the model's voice detection ends a turn that the hold cut off
PREROLL_FRAMES = 20  # 400 ms: what a connection that takes over hears again, so that no onset is lost between the two
RING_FRAMES = 10  # 200 ms: what may wait while the model connection is behind or not open yet


class ReadySpeech(Protocol):
    """Texts that are rendered already."""

    def get(self, text: str) -> bytes | None:
        """PCM16LE at the call's rate; None when it is not ready."""
        ...


Escalation = RunTool | HangUp | HandOver | Fail | Lost
SendFrame = Callable[[bytes], object]


class Bridge:
    """Media and turns of one call. `now` is the event loop's clock in seconds."""

    def __init__(
        self,
        offer: Offer,
        capabilities: Capabilities,
        journal: Journal,
        send: SendFrame,
        escalate: Callable[[Escalation], None],
        limit: RateLimit | None = None,
    ) -> None:
        rate_hz = offer.state.rate_hz
        self._epoch = offer.epoch
        self._codec = Codec.of_rate(rate_hz)
        self._journal, self._send_frame, self._escalate = journal, send, escalate
        self._text = SpeechText(rate_hz)
        self._limit = limit or RateLimit()
        self._backend: SpeechBackend | None = None
        self.ring: deque[bytes] = deque()
        self._recent: deque[bytes] = deque(maxlen=PREROLL_FRAMES)
        self.playout = Playout(rate_hz, continuous=capabilities.continuous_output)
        self._silence = bytes(2 * self._codec.frame_samples)
        self._is_continuous = capabilities.continuous_output
        self.turn = TurnMachine(TurnRules.of(offer.agent), capabilities, self._text, rate_hz, self._limit)
        self.set_state(offer.state)
        self.drained = asyncio.Event()
        self.ready_speech: ReadySpeech | None = None  # for what the worker says by itself
        self._machine = watch_for(offer)
        self.last_up_at = 0.0
        self.counters: Counter[str] = Counter()
        self.endpointing = Endpointing()

    def verdict(self) -> Counter[str]:
        """What the call counted, for its last log line and the metrics."""
        written_off = Counter(dn_written_off_samples=self.playout.written_off)
        return +(self.counters + written_off)

    def claim(self, now: float) -> None:
        """Send the frame that proves the new epoch."""
        self.last_up_at = now
        self._send(self.playout.claim_frame())

    def attach(self, backend: SpeechBackend | None) -> None:
        """From now on audio goes to this open backend, or waits."""
        self._backend = backend

    def swap(self, backend: SpeechBackend) -> bool:
        """Go over to another connection of the same conversation; False when there is none to go over from."""
        if self._backend is None:
            return False
        for pcm in self._recent:  # what waits in the ring is the end of it
            backend.feed(pcm)
        self.ring.clear()
        self._backend = backend
        return True

    def set_state(self, state: CallState) -> None:
        """The leg's state: nothing is heard or said before the answer, and nothing while the call is held."""
        self.state = state
        self.playout.paused = state.held
        self.turn.is_set_aside = state.held or state.muted or state.transfer == "pending"
        self._held_frames = 0

    # -- up ------------------------------------------------------------------------------------------

    def uplink(self, frame: AudioFrame, now: float) -> None:
        """Take one frame of the caller, and the playout position that travels with it."""
        if frame.epoch != self._epoch:
            self.counters["up_other_epoch"] += 1
            return
        self.last_up_at = now
        self.counters["up"] += 1
        if self.counters["up"] == 1 and self.playout.sent == 0:
            self._send(self.playout.claim_frame())  # the first one may have come before the gateway listened to us
        if frame.codec != self._codec:
            self.counters["up_other_codec"] += 1
        elif frame.payload and self.state.answered:
            self._feed_live(frame.payload)
            if self._machine is not None:
                self._found(self._machine.frame(frame.payload), now)
        playout = self.playout
        for event in playout.heard(frame.played, flushed=bool(frame.flags & Flag.FLUSHED)):
            self.do(self.turn.on_playout(event, now), now)
            if isinstance(event, Drained):
                self.drained.set()
        if playout.flushing:
            again = playout.repeat_flush()
            if again is not None:
                self._send(again)
        else:
            self._pump(now)

    def _feed_live(self, pcm: bytes) -> None:
        if not self.state.held:
            self._feed(pcm)
        elif self._is_continuous or self._held_frames < HOLD_SILENCE_FRAMES:  # no model listens to waiting music
            self._held_frames += 1
            self._feed(self._silence)

    def _feed(self, pcm: bytes) -> None:
        ring, backend = self.ring, self._backend
        self._recent.append(pcm)
        self.endpointing.fed(pcm)
        if backend is not None and not ring and backend.feed(pcm):
            return
        if len(ring) >= RING_FRAMES:
            ring.popleft()
            self.counters["up_dropped"] += 1
        ring.append(pcm)
        while backend is not None and ring and backend.feed(ring[0]):
            ring.popleft()

    # -- down ----------------------------------------------------------------------------------------

    def on_event(self, event: BackendEvent, now: float) -> None:  # noqa: PLR0912  one flat dispatch
        """Take one event of the backend."""
        match event:
            case AudioDelta(response, item, content_index, pcm):
                if self.turn.accepts(response, item, now):
                    self.playout.push(response, (item, content_index), pcm)
                    self._pump(now)
                else:
                    self.counters["delta_of_dead_response"] += 1
            case ContinuousAudio(pcm) if self.state.answered:
                self._send(self.playout.passthrough(pcm))
            case TextDelta(response, item, content_index, text):
                if not self.turn.floor.is_dead(response):
                    self._text.add((item, content_index), text)
                    self._announce(self.playout.part((item, content_index)))
            case TextEnded(response, item, content_index, text):
                if not self.turn.floor.is_dead(response):
                    self._text.end((item, content_index), text)
                    self._announce(self.playout.part((item, content_index)))
            case AudioEnded(_, item, content_index):
                self.playout.end_part((item, content_index))
            case ResponseEnded(response):
                if not self.turn.floor.is_dead(response):
                    self.playout.end_response()
                    self._pump(now)
                self.do(self.turn.on_backend(event, now), now)
            case UsageCounted():
                self._usage(event, now)
            case LimitUsedUp(reset_s):
                self._limit.used_up(now, reset_s)
            case Lost():
                self._backend = None
                self.playout.end_response()
                self._pump(now)
                self.do(self.turn.backend_lost(now), now)
                self._escalate(event)
            case _:
                self.do(self.turn.on_backend(event, now), now)
                if self._machine is not None and isinstance(event, CallerTranscript):
                    self._found(self._machine.words(event.text), now)

    def _found(self, finding: Finding | None, now: float) -> None:
        """Something is known of who took an outbound call."""
        if finding is None:
            return
        if finding.found is not Found.READY:
            who: Literal["person", "machine"] = "machine" if finding.found is Found.MACHINE else "person"
            self._journal.put(CallAnsweredBy, who=who, why=finding.why)
        self.do(self.turn.answered_by(finding.found, now), now)

    def _usage(self, event: UsageCounted, now: float) -> None:
        self._journal.put(
            UsageReported,
            source=event.source,
            model=event.model,
            reference=event.reference,
            tokens=event.tokens,
            seconds=event.seconds,
            cost_usd=event.cost_usd,
        )
        if event.cost_usd:
            self.do(self.turn.spent(event.cost_usd, now), now)

    def _pump(self, now: float) -> None:
        """Send what may go out; each sentence is announced before its audio (R8)."""
        playout = self.playout
        while True:
            head = playout.head
            frame = playout.next_frame()
            if frame is None:
                return
            self._announce(head)
            self._send(frame)
            if self.turn.latency.frame_due:
                self.turn.latency.first_frame(now)

    def _announce(self, part: Part | None) -> None:
        """Publish the sentences that begin in what goes out of this part; late ones when their text arrives."""
        if part is None or part.from_sample < 0:
            return
        for sentence in self._text.due(part.key, part.sent, part.received, part.ended):
            begins = part.base + sentence.offset
            local = part.response.startswith(LOCAL)
            self._journal.put(AgentText, item=part.key[0], from_sample=begins, text=sentence.text, local=local)

    def _send(self, frame: OutFrame) -> None:
        flags = (
            (Flag.TALKSPURT.value if frame.talkspurt else 0)
            | (Flag.END_OF_RESPONSE.value if frame.end_of_response else 0)
            | (Flag.FLUSH.value if frame.flush else 0)
        )
        self.counters["dn"] += 1
        self._send_frame(
            pack(AudioFrame(self._codec.value, flags, self._epoch, frame.seq, frame.timestamp, frame.payload))
        )

    # -- what the turn machine wants --------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """About ten times a second."""
        if self._backend is not None:
            self._backend.tick(now)
        self.do(self.turn.tick(now), now)

    def tool_done(self, now: float) -> None:
        """A tool that was run for `RunTool` has returned."""
        self.do(self.turn.tool_done(now), now)

    def flush(self) -> None:
        """Drop everything unplayed, also what waits behind a flush that is not acknowledged yet."""
        self._send(self.playout.flush())

    def do(self, actions: Iterable[Action], now: float) -> None:
        """Carry out actions; those that need waiting go up."""
        for action in actions:
            match action:
                case FlushPlayout():
                    self.flush()
                case ParkPlayout():
                    if (frame := self.playout.park()) is not None:
                        self._send(frame)
                case ResumePlayout():
                    self.playout.resume()
                    self._pump(now)
                    self._journal.meter.went_on()
                case PlayLocal(response, text):
                    self._play_local(response, text, now)
                case RunTool() | HangUp() | HandOver() | Fail():
                    self._escalate(action)
                case StartResponse() | CancelResponse() | Truncate() | DeleteItem():
                    self._tell_backend(action)
                case _:
                    self._publish(action)

    def _play_local(self, response: str, text: str, now: float) -> None:
        pcm = self.ready_speech.get(text) if self.ready_speech is not None else None
        if pcm is None:
            self.counters["local_not_ready"] += 1
            return
        self.counters["local"] += 1
        key = (response, 0)
        self.turn.plays_local(response)
        self._text.end(key, text)
        self.playout.push(response, key, pcm)
        self.playout.end_response()
        self._pump(now)

    def _tell_backend(self, action: StartResponse | CancelResponse | Truncate | DeleteItem) -> None:
        backend = self._backend
        if backend is None:  # its successor starts from the rebuilt conversation
            return
        match action:
            case StartResponse(wish):
                backend.start_response(wish)
            case CancelResponse(response):
                backend.cancel_response(response)
            case Truncate(item, content_index, audio_end_ms):
                self.counters["truncated"] += 1
                backend.truncate(item, content_index, audio_end_ms)
            case DeleteItem(item):
                backend.delete_item(item)

    def _publish(
        self, action: PublishCallerSpoke | PublishCallerTurn | PublishAgentTurn | PublishLatency | NoteTrouble
    ) -> None:
        put = self._journal.put
        match action:
            case PublishCallerSpoke(item):
                put(CallerSpoke, item=item)
            case PublishCallerTurn(item, text, failed):
                put(CallerTurn, item=item, text=text, failed=failed, started_at=self._journal.spoke_at(item))
            case PublishAgentTurn():
                put(
                    AgentTurn,
                    item=action.item,
                    response=action.response,
                    text=action.text,
                    heard_text=action.heard_text,
                    interrupted=action.interrupted,
                    audio_ms=action.audio_ms,
                    heard_ms=action.heard_ms,
                    from_sample=action.from_sample,
                    local=action.local,
                )
            case PublishLatency(latency):
                put(
                    LatencyMeasured,
                    response=latency.response,
                    stopped_to_first_delta_ms=latency.stopped_to_first_delta_ms,
                    stopped_to_first_frame_ms=latency.stopped_to_first_frame_ms,
                    stopped_to_heard_ms=latency.stopped_to_heard_ms,
                    tools_ms=latency.tools_ms,
                )
            case NoteTrouble(code, detail):
                self.counters["trouble"] += 1
                put(SessionTrouble, code=code, detail=detail)
