"""Generates docs/subjects.md, so that it cannot drift: `python -m libs.contracts.document > docs/subjects.md`."""

from __future__ import annotations

import inspect
import sys
from typing import get_args

from libs.contracts import events
from libs.contracts.subjects import SUBJECTS

COMMAND = "python -m libs.contracts.document > docs/subjects.md"

GATEWAY, WORKER = "gateway", "worker"
PUBLISHERS: dict[type[events.CallEvent], str] = {
    events.CallOffered: GATEWAY,
    events.CallClaimed: GATEWAY,
    events.CallWaiting: GATEWAY,
    events.CallRinging: GATEWAY,
    events.CallAnswered: GATEWAY,
    events.WorkerLost: GATEWAY,
    events.CallHeld: GATEWAY,
    events.CallTransfer: GATEWAY,
    events.CallTakenOver: GATEWAY,
    events.CallMuted: GATEWAY,
    events.CallRecording: GATEWAY,
    events.RecordingStored: "recorder",
    events.DtmfReceived: GATEWAY,
    events.DtmfSent: GATEWAY,
    events.SipTraced: "gateway (SIP)",
    events.CallEnded: f"{GATEWAY}; transcript_store for a call that nobody owns",
    events.CallerSpoke: WORKER,
    events.CallerTurn: WORKER,
    events.AgentText: WORKER,
    events.AgentTurn: WORKER,
    events.CallAnsweredBy: WORKER,
    events.ToolCalled: WORKER,
    events.ToolReturned: WORKER,
    events.UsageReported: WORKER,
    events.LatencyMeasured: WORKER,
    events.SessionTrouble: WORKER,
    events.OrderPlaced: "catalog_tools",
}

_HEAD = f"""# Subjects and events

Generated from `libs/contracts`; do not edit. After a change: `{COMMAND}`

Ids match `[A-Za-z0-9_-]+`. Audio frames are msgpack arrays, everything else is JSON; see `libs/contracts`.

## Subjects
"""


def event_classes() -> tuple[type[events.CallEvent], ...]:
    """Every class of the event stream's union, in its order."""
    union, *_ = get_args(events.Event)
    return get_args(union)


def subjects_markdown() -> str:
    """The page: a table of all subjects, a table of all kinds of events with their publishers."""
    lines = [_HEAD, "| subject | kind | content |", "|---|---|---|"]
    lines += [f"| `{row.pattern}` | {row.kind} | {row.content} |" for row in SUBJECTS]
    lines += ["", "## Events", "", "| kind | what happened | fields | published by |", "|---|---|---|---|"]
    common = events.CallEvent.model_fields.keys() | {"kind"}
    for cls in event_classes():
        fields = ", ".join(f"`{name}`" for name in cls.model_fields if name not in common)
        what = inspect.getdoc(cls) or ""
        lines.append(
            f"| `{cls.model_fields['kind'].default}` | {what.splitlines()[0]} | {fields} | {PUBLISHERS[cls]} |"
        )
    shared = ", ".join(f"`{name}`" for name in events.CallEvent.model_fields)
    return "\n".join([*lines, "", f"Every event also has {shared}.", ""])


if __name__ == "__main__":
    sys.stdout.write(subjects_markdown())
