"""A call as `callbus tap` shows it below its lines while it lasts: who, how far, what is being said. No I/O."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from statistics import median

from rich.text import Text

from libs.contracts import events as ev
from libs.contracts.live import PartialTranscript

KEPT_ITEMS = 20  # turns whose end is known; a partial transcript of one of them came late
SHOWN_CHARACTERS = 300


class TapState:
    """Fed with a call's events and partial transcripts; `lines` is what stands on the screen now."""

    def __init__(self) -> None:
        self.phase = "offered"
        self._call = self._who = self._agent = self._worker = ""
        self._epoch = 0
        self._answered_at: datetime | None = None
        self._flags: dict[str, bool] = {}
        self._tools: dict[str, str] = {}
        self._heard_ms: list[float] = []
        self._cost_usd = 0.0
        self._said: dict[str, tuple[str, str]] = {}  # by speaker: item and text so far
        self._over: deque[str] = deque(maxlen=KEPT_ITEMS)

    def partial(self, partial: PartialTranscript) -> None:
        """Somebody is speaking."""
        if partial.item not in self._over:
            self._said[partial.speaker] = (partial.item, partial.text)

    def event(self, event: ev.Event) -> None:  # noqa: PLR0912  one flat dispatch
        """One event of the call."""
        match event:
            case ev.CallOffered():
                self._call, self._agent = event.call, event.agent or "no agent"
                self._who = f"{event.caller} → {event.callee}"
            case ev.CallClaimed():
                self._worker, self._epoch = event.wk, event.epoch or 0
            case ev.CallTakenOver():
                self._worker, self._epoch = event.by, event.epoch or 0
            case ev.WorkerLost():
                self._worker = ""
                self._tools.clear()
            case ev.CallWaiting():
                self.phase = "waits for a person"
            case ev.CallRinging():
                self.phase = "ringing"
            case ev.CallAnswered():
                self.phase, self._answered_at = "talking", event.at
            case ev.CallEnded():
                self.phase = "ended"
                self._said.clear()
            case ev.CallMuted():
                self._flags["muted"] = event.muted
            case ev.CallHeld():
                self._flags["held"] = event.held
            case ev.CallRecording():
                self._flags["recorded"] = event.state == "started"
            case ev.CallerSpoke():
                self._said.setdefault("caller", (event.item, ""))
            case ev.CallerTurn():
                self._finished("caller", event.item)
            case ev.AgentTurn():
                self._finished("agent", event.item)
            case ev.ToolCalled():
                self._tools[event.tool_call_id] = event.name
            case ev.ToolReturned():
                self._tools.pop(event.tool_call_id, None)
            case ev.LatencyMeasured() if event.stopped_to_heard_ms is not None:
                self._heard_ms.append(event.stopped_to_heard_ms)
            case ev.UsageReported():
                self._cost_usd += event.cost_usd or 0.0

    def lines(self, now: datetime) -> list[Text]:
        """What stands on the screen, from top to bottom."""
        lines = [Text(" · ".join(self._facts(now)), style="bold reverse")]
        for speaker, label, style in (("caller", "Caller  ", "cyan"), ("agent", "Agent   ", "green")):
            if speaker in self._said:
                text = self._said[speaker][1]
                shown = text if len(text) <= SHOWN_CHARACTERS else f"… {text[-SHOWN_CHARACTERS:]}"
                lines.append(Text(label, style=f"bold {style}").append(f"{shown} …".strip(), style=f"italic {style}"))
        if self._tools:
            lines.append(Text(f"  → {', '.join(self._tools.values())} …", style="magenta"))
        if self._heard_ms:
            lines.append(Text(self._latency(), style="blue"))
        return lines

    def _facts(self, now: datetime) -> list[str]:
        lasted = ""
        if self._answered_at is not None:
            seconds = max(0, int((now - self._answered_at).total_seconds()))
            lasted = f"{seconds // 60}:{seconds % 60:02}"
        worker = f"{self._worker[-6:]} epoch {self._epoch}" if self._worker else "no worker"
        flags = [name for name, on in self._flags.items() if on]
        cost = f"{self._cost_usd:.4f} USD" if self._cost_usd else ""
        facts = (self._call[-6:], self.phase, lasted, self._who, self._agent, worker, *flags, cost)
        return [fact for fact in facts if fact]

    def _latency(self) -> str:
        heard = self._heard_ms
        return (
            f"  ⏱ from the caller's last word to the agent's first: last {heard[-1]:.0f}, median {median(heard):.0f}, "
            f"worst {max(heard):.0f} ms of {len(heard)}"
        )

    def _finished(self, speaker: str, item: str) -> None:
        self._over.append(item)
        if self._said.get(speaker, ("", ""))[0] == item:
            del self._said[speaker]
