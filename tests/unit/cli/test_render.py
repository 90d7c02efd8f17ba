"""Events as lines for people, and stored conversations as text."""

from datetime import UTC, datetime
from typing import Any

import pytest

from cli.render import MOST_CHARACTERS, EventLines
from cli.show import conversation_lines
from libs.contracts import events as ev
from libs.contracts.termination import Reason, Termination

COMMON: dict[str, Any] = {"event_id": "c:x:1", "org": "default", "call": "01JCABCDEF", "at": datetime.now(UTC)}


def line(event: ev.Event, **options: bool) -> str | None:
    text = EventLines(**options).line(event)
    return None if text is None else text.plain[14:]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ev.CallerTurn(item="i", text="Zehn T-Stücke.", **COMMON), "Caller  Zehn T-Stücke."),
        (ev.CallerTurn(item="i", text="", failed=True, **COMMON), "Caller  (could not be transcribed)"),
        (ev.CallRecording(state="started", by="rec-1", **COMMON), "recording started"),
        (ev.CallRecording(state="lost", by="rec-1", **COMMON), "recorder rec-1 lost; another one is sought"),
        (
            ev.RecordingStored(
                key="recordings/x.wav",
                part="p",
                started_at=datetime.now(UTC),
                duration_ms=8400,
                rate_hz=8000,
                size_bytes=9,
                is_complete=False,
                **COMMON,
            ),
            "recording stored: 8.4 s, its end may be missing (recordings/x.wav)",
        ),
        (
            ev.AgentTurn(item="i", response="r", text="Gern.", heard_text="Gern.", audio_ms=9, heard_ms=9, **COMMON),
            "Agent   Gern.",
        ),
        (
            ev.AgentTurn(
                item="i",
                response="r",
                text="Ja. Noch etwas?",
                heard_text="Ja.",
                interrupted=True,
                audio_ms=2000,
                heard_ms=812.5,
                **COMMON,
            ),
            "Agent   Ja. ✂ interrupted after 812 ms",
        ),
        (
            ev.ToolCalled(tool_call_id="t", name="order_add", arguments={"quantity": 10}, **COMMON),
            '  → order_add {"quantity": 10}',
        ),
        (
            ev.ToolReturned(tool_call_id="t", name="order_add", ok=False, output="no", took_ms=3.4, **COMMON),
            "  ← order_add 3 ms failed no",
        ),
        (
            ev.LatencyMeasured(response="r", stopped_to_first_delta_ms=300, stopped_to_heard_ms=341.2, **COMMON),
            "  ⏱ model 300 ms, heard 341 ms",
        ),
        (
            ev.CallEnded(termination=Termination.of(Reason.CALLER_HUNG_UP), talk_ms=12_340, **COMMON),
            "ended after 12.3 s: caller_hung_up (success)",
        ),
        (ev.CallClaimed(wk="wk-1", epoch=1, **COMMON), "worker wk-1 has the call, epoch 1"),
        (ev.CallRinging(**COMMON), "ringing (180)"),
        (ev.CallHeld(held=True, by="remote", **COMMON), "put on hold by the other side"),
        (ev.CallHeld(held=False, by="command", **COMMON), "taken back from hold by command"),
        (
            ev.CallTransfer(state="failed", target="+49301", mode="bridge", status=486, detail="busy", **COMMON),
            "transfer to +49301 by bridge: failed 486: busy",
        ),
        (
            ev.CallTakenOver(by="op-anna", **(COMMON | {"epoch": 3})),
            "op-anna has taken the call from the agent, epoch 3",
        ),
        (ev.DtmfSent(digits="12#", **COMMON), "keys pressed towards the other side: 12#"),
        (ev.DtmfReceived(digit="5", **COMMON), "caller pressed 5"),
    ],
)
def test_an_event_is_one_line(event: ev.Event, expected: str) -> None:
    assert line(event) == expected


def test_what_says_nothing_new_is_shown_only_when_asked_for() -> None:
    event = ev.CallerSpoke(item="item_1", **COMMON)
    assert line(event) is None
    assert line(event, verbose=True) == 'caller.spoke {"item": "item_1"}'


def test_lines_of_several_calls_name_theirs() -> None:
    text = line(ev.DtmfReceived(digit="5", **COMMON), show_call=True)
    assert text == "ABCDEF  caller pressed 5"


def test_long_values_are_cut() -> None:
    text = line(ev.ToolCalled(tool_call_id="t", name="n", arguments={"query": "x" * 500}, **COMMON))
    assert text is not None
    assert text.endswith("…")
    assert len(text) == MOST_CHARACTERS + len("  → n ")


def test_a_stored_conversation_reads_in_the_order_of_its_time() -> None:
    answer = {
        "conversation": {"call": "c", "talk_ms": 12000.0},
        "turns": [
            {"speaker": "caller", "started_at": "2026-01-01T10:00:02", "text": "Zehn T-Stücke."},
            {
                "speaker": "agent",
                "started_at": "2026-01-01T10:00:05",
                "text": "Gern. Was noch?",
                "heard_text": "Gern.",
                "interrupted": True,
            },
        ],
        "tool_calls": [
            {"called_at": "2026-01-01T10:00:03", "name": "order_add", "arguments": {"quantity": 10}, "took_ms": 4.0},
            {"called_at": "2026-01-01T10:00:06", "name": "order_show", "arguments": {}, "took_ms": 9.0, "ok": False}
            | {"output": {"error": "database is locked"}},
            {"called_at": "2026-01-01T10:00:07", "name": "order_submit", "arguments": {}, "took_ms": None, "ok": None},
        ],
    }
    assert [text.plain for text in conversation_lines(answer)] == [
        "Caller  Zehn T-Stücke.",
        "        → order_add {'quantity': 10} 4 ms",
        "Agent   Gern. ✂ Was noch?",
        '        → order_show {} 9 ms failed: {"error": "database is locked"}',
        "        → order_submit {} without an answer",
        "talked 12000 ms",
    ]


def test_the_other_side_of_a_call_that_we_placed_is_the_callee() -> None:
    lines = EventLines()
    offered = {"entrance": "sip", "gw": "g", "caller": "+491", "callee": "+492", "agent": "a"}
    said = [
        lines.line(event)
        for event in (
            ev.CallOffered(direction="outbound", **offered, **COMMON),
            ev.CallerTurn(item="i", text="Ja?", **COMMON),
            ev.DtmfReceived(digit="1", **COMMON),
            ev.CallerTurn(item="i", text="Hallo.", **(COMMON | {"call": "other"})),
        )
    ]
    assert [text.plain[14:] for text in said if text] == [
        "call 01JCABCDEF to +492 as +491, agent a",
        "Callee  Ja?",
        "callee pressed 1",
        "Caller  Hallo.",
    ]


def test_a_call_that_waits_says_how_it_is_accepted() -> None:
    text = line(ev.CallWaiting(until=COMMON["at"], **COMMON)) or ""
    assert text.startswith("waits for a person until ")
    assert text.endswith(": `callbus accept 01JCABCDEF`, or reject")


def test_sip_messages_are_shown_when_asked_for_alone() -> None:
    event = ev.SipTraced(direction="in", local="a:1", peer="b:2", text="BYE sip:a SIP/2.0\r\nVia: x\r\n\r\n", **COMMON)
    assert line(event) is None
    assert line(event, verbose=True) == "SIP ◀ b:2 BYE sip:a SIP/2.0"


def test_a_stored_conversation_tells_its_cost_by_source_and_what_has_no_price() -> None:
    def used(source: str, model: str, cost_usd: float | None) -> dict[str, object]:
        return {"source": source, "model": model, "cost_usd": cost_usd}

    answer = {
        "conversation": {"call": "c", "cost_usd": 0.0325},
        "turns": [],
        "tool_calls": [],
        "usage": [
            used("response", "gpt-realtime-2.1", 0.02),
            used("response", "gpt-realtime-2.1", 0.01),
            used("transcription", "gpt-transcribe", 0.0025),
            used("speech", "eleven_v3", None),
            used("response", "own", 0.0),
            used("response", "own", None),
        ],
    }
    assert conversation_lines(answer)[-1].plain == (
        "response gpt-realtime-2.1 0.03 USD (2) · transcription gpt-transcribe 0.0025 USD (1) · "
        "speech eleven_v3 price unknown (1) · response own 0 USD (2, 1 of them without a price)"
    )
