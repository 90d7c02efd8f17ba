"""One event, one line (or none) for people: what `callbus tap` and the demo print. No I/O."""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

from libs.contracts import events as ev

MOST_CHARACTERS = 110
_QUIET = (ev.AgentText, ev.CallerSpoke, ev.UsageReported, ev.SipTraced)


class EventLines:
    """Turns events into lines; with `show_call` each begins with the call it belongs to."""

    def __init__(self, *, show_call: bool = False, verbose: bool = False) -> None:
        self._show_call = show_call
        self._verbose = verbose
        self._placed: set[str] = set()  # outbound calls: the other side is the callee there

    def line(self, event: ev.Event) -> Text | None:
        """The line for an event, or None for one that says nothing new to a reader."""
        if isinstance(event, ev.CallOffered) and event.direction == "outbound":
            self._placed.add(event.call)
        other = "Callee" if event.call in self._placed else "Caller"
        if isinstance(event, ev.CallEnded):
            self._placed.discard(event.call)
        if isinstance(event, _QUIET) and not self._verbose:
            return None
        text = Text(f"{event.at.astimezone():%H:%M:%S.%f}"[:12] + "  ", style="dim")
        if self._show_call:
            text.append(f"{event.call[-6:]}  ", style="dim")
        said, style = _quiet(event) if isinstance(event, _QUIET) else _said(event, other)
        if said.startswith(("\N{RIGHTWARDS ARROW}", "\N{LEFTWARDS ARROW}", "⏱")):
            said = f"  {said}"
        text.append(said, style=style)
        return text


def _quiet(event: ev.Event) -> tuple[str, str]:
    if isinstance(event, ev.SipTraced):
        arrow = "◀" if event.direction == "in" else "▶"
        return f"SIP {arrow} {event.peer} {shortened(event.text.partition(chr(10))[0].strip())}", "dim"
    return f"{event.kind} {_details(event)}", "dim"


def _said(event: ev.Event, other: str) -> tuple[str, str]:
    match event:
        case ev.CallerTurn():
            words = event.text if not event.failed else "(could not be transcribed)"
            return f"{other}  {words}", "bold cyan"
        case ev.AgentTurn() if event.interrupted:
            return f"Agent   {event.heard_text or '…'} ✂ interrupted after {event.heard_ms:.0f} ms", "bold yellow"
        case ev.AgentTurn():
            return f"Agent   {event.text}", "bold green"
        case ev.ToolCalled():
            return f"→ {event.name} {shortened(event.arguments)}", "magenta"
        case ev.ToolReturned():
            verdict = "" if event.ok else "failed "
            return f"← {event.name} {event.took_ms:.0f} ms {verdict}{shortened(event.output)}", "magenta"
        case ev.LatencyMeasured():
            return _latency(event), "blue"
        case ev.OrderPlaced():
            lines = ", ".join(f"{line.quantity} × {line.name}" for line in event.lines)
            return f"order {event.number}: {lines}; {event.total_eur} €", "bold"
        case ev.SessionTrouble():
            return f"trouble with the model: {event.code} {event.detail}", "red"
        case ev.DtmfReceived():
            return f"{other.lower()} pressed {event.digit}", "cyan"
        case ev.CallHeld() | ev.CallTransfer() | ev.CallTakenOver() | ev.CallMuted() | ev.DtmfSent():
            return _control(event)
        case ev.CallRecording() | ev.RecordingStored():
            return _recording(event)
        case _:
            return _lifecycle(event)


def _lifecycle(event: ev.Event) -> tuple[str, str]:
    match event:
        case ev.CallOffered() if event.direction == "outbound":
            return f"call {event.call} to {event.callee} as {event.caller}, agent {event.agent or 'none'}", "bold"
        case ev.CallOffered():
            return f"call {event.call} from {event.caller} to {event.callee}, agent {event.agent or 'none'}", "bold"
        case ev.CallClaimed():
            after = f" ({event.cause}, before: {event.previous_wk})" if event.previous_wk else ""
            return f"worker {event.wk} has the call, epoch {event.epoch}{after}", "dim"
        case ev.CallWaiting():
            until = f"{event.until.astimezone():%H:%M:%S}"
            return f"waits for a person until {until}: `callbus accept {event.call}`, or reject", "bold yellow"
        case ev.CallRinging():
            return f"ringing ({event.status}{', early media' if event.early_media else ''})", "bold"
        case ev.CallAnswered():
            return f"answered, {event.codec} at {event.rate_hz} Hz", "dim"
        case ev.WorkerLost():
            return f"worker {event.wk} lost ({event.cause}) {event.detail}".rstrip(), "red"
        case ev.CallEnded():
            why = f"{event.termination.reason} ({event.termination.result})"
            detail = f": {event.termination.detail}" if event.termination.detail else ""
            return f"ended after {event.talk_ms / 1000:.1f} s: {why}{detail}", "bold"
        case _:
            return f"{event.kind} {_details(event)}", "dim"


def _control(event: ev.CallHeld | ev.CallTransfer | ev.CallTakenOver | ev.CallMuted | ev.DtmfSent) -> tuple[str, str]:
    match event:
        case ev.CallHeld():
            by = "by the other side" if event.by == "remote" else "by command"
            return f"{'put on hold' if event.held else 'taken back from hold'} {by}", "dim"
        case ev.CallTransfer():
            answer = f" {event.status}" if event.status else ""
            detail = f": {event.detail}" if event.detail else ""
            style = {"done": "bold", "failed": "red"}.get(event.state, "dim")
            return f"transfer to {event.target} by {event.mode}: {event.state}{answer}{detail}", style
        case ev.CallTakenOver():
            return f"{event.by} has taken the call from the agent, epoch {event.epoch}", "bold"
        case ev.CallMuted():
            return "agent muted" if event.muted else "agent unmuted", "dim"
        case ev.DtmfSent():
            return f"keys pressed towards the other side: {event.digits}", "dim"


def _recording(event: ev.CallRecording | ev.RecordingStored) -> tuple[str, str]:
    if isinstance(event, ev.RecordingStored):
        lacking = "" if event.is_complete else ", its end may be missing"
        return f"recording stored: {event.duration_ms / 1000:.1f} s{lacking} ({event.key})", "dim"
    if event.state == "lost":
        return f"recorder {event.by} lost; another one is sought", "red"
    return f"recording {event.state}", "dim"


def _latency(event: ev.LatencyMeasured) -> str:
    parts = [
        f"{name} {value:.0f} ms"
        for name, value in (
            ("model", event.stopped_to_first_delta_ms),
            ("on the bus", event.stopped_to_first_frame_ms),
            ("heard", event.stopped_to_heard_ms),
        )
        if value is not None
    ]
    tools = f" (tools {event.tools_ms:.0f} ms)" if event.tools_ms else ""
    return f"⏱ {', '.join(parts) or 'not measured'}{tools}"


def _details(event: ev.Event) -> str:
    hidden = {"schema_version", "event_id", "org", "call", "at", "kind"}
    return shortened(event.model_dump(mode="json", exclude=hidden, exclude_none=True))


def shortened(value: Any) -> str:
    """One line of it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
