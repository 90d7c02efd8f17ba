"""One example of everything that goes over the bus, built from its class: docs/bus.md shows them, tests validate them.

They tell of one call: an order on the telephone, with an interruption, a failover and a transfer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from libs.contracts import commands, events as ev, subjects
from libs.contracts.agent import AgentConfig
from libs.contracts.frame import AudioFrame, Codec, Flag, pack
from libs.contracts.heartbeat import CallEntry, GatewayHeartbeat, WorkerHeartbeat
from libs.contracts.live import PARTIAL, PartialTranscript
from libs.contracts.model import Message
from libs.contracts.offer import CallState, Offer, OfferReply, Release
from libs.contracts.originate import Originate, OriginateReply
from libs.contracts.recording import RecordReply, RecordRequest
from libs.contracts.rpc import RpcReply, RpcRequest
from libs.contracts.spending import DaySpending
from libs.contracts.termination import Reason, Termination
from libs.contracts.tool import ToolReply, ToolRequest

ORG = "default"
CALL = "01K9Z3T8V4QH5N2M7R6C0XWYEA"
GW = "gw-01k9z3s1n0a4"
WK = "wk-01k9z3s2b7c8"
NEXT_WK = "wk-01k9z3s2d9e0"
RECORDER = "recorder-01k9z3s3f1"
BEGAN_AT = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CALLER, CALLEE, SALES = "+493012345678", "bestellung", "+493087654321"
TOOL_CALL = "call_7Kq2"
_ITEM, _ANSWER, _RESPONSE = "item_C1", "item_A1", "resp_1"

_Made = tuple[Callable[..., ev.CallEvent], dict[str, object]]
_SIP = "OPTIONS sip:bestellung@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK7\r\n\r\n"

_GATEWAY: tuple[_Made, ...] = (
    (ev.CallOffered, {"entrance": "sip", "gw": GW, "caller": CALLER, "callee": CALLEE, "agent": "bestellung",
                      "route": "bestellung"}),
    (ev.CallClaimed, {"epoch": 1, "wk": WK}),
    (ev.CallWaiting, {"until": BEGAN_AT + timedelta(seconds=60)}),
    (ev.CallRinging, {"status": 180}),
    (ev.CallAnswered, {"codec": "PCMA", "rate_hz": 8000}),
    (ev.WorkerLost, {"epoch": 1, "wk": WK, "cause": "silent", "played": 51_200, "detail": "no heartbeat for 350 ms"}),
    (ev.CallHeld, {"held": True, "by": "remote"}),
    (ev.CallTransfer, {"state": "requested", "target": SALES, "mode": "refer"}),
    (ev.CallTakenOver, {"epoch": 3, "by": "op-anna", "previous_wk": NEXT_WK, "previous_played": 96_000}),
    (ev.CallMuted, {"muted": True}),
    (ev.CallRecording, {"state": "started", "by": RECORDER}),
    (ev.RecordingStored, {"key": f"recordings/{ORG}/2026/11/21/{CALL}/090002-{RECORDER}-1.wav",
                          "part": f"090002-{RECORDER}-1", "started_at": BEGAN_AT + timedelta(seconds=2),
                          "duration_ms": 61_240, "rate_hz": 8000, "size_bytes": 1_959_724}),
    (ev.DtmfReceived, {"digit": "5"}),
    (ev.DtmfSent, {"digits": "12#"}),
    (ev.SipTraced, {"direction": "in", "local": "192.0.2.10:5060", "peer": "192.0.2.7:5060", "text": _SIP}),
    (ev.CallEnded, {"termination": Termination.of(Reason.CALLER_HUNG_UP), "duration_ms": 64_100, "talk_ms": 62_000}),
)  # fmt: skip

_CONVERSATION: tuple[_Made, ...] = (
    (ev.CallerSpoke, {"item": _ITEM}),
    (ev.CallerTurn, {"item": _ITEM, "text": "Ich brauche zehn T-Stücke, 22 Millimeter.",
                     "started_at": BEGAN_AT + timedelta(seconds=6)}),
    (ev.AgentText, {"item": _ANSWER, "from_sample": 16_000, "text": "Gern, zehn T-Stücke."}),
    (ev.AgentTurn, {"item": _ANSWER, "response": _RESPONSE, "text": "Gern, zehn T-Stücke. Sonst noch etwas?",
                    "heard_text": "Gern, zehn T-Stücke.", "interrupted": True, "audio_ms": 2_900, "heard_ms": 1_640,
                    "from_sample": 16_000}),
    (ev.CallAnsweredBy, {"who": "person", "why": "greeting"}),
    (ev.ToolCalled, {"tool_call_id": TOOL_CALL, "name": "order_add",
                     "arguments": {"article_number": "101004", "quantity": 10}}),
    (ev.ToolReturned, {"tool_call_id": TOOL_CALL, "name": "order_add", "ok": True,
                       "output": {"total_eur": "38.50"}, "took_ms": 12.4}),
    (ev.UsageReported, {"source": "response", "model": "gpt-realtime", "reference": _RESPONSE,
                        "tokens": {"input_audio": 312, "output_audio": 58}, "cost_usd": 0.0137}),
    (ev.LatencyMeasured, {"response": _RESPONSE, "stopped_to_first_delta_ms": 412.0,
                          "stopped_to_first_frame_ms": 415.5, "stopped_to_heard_ms": 470.0, "tools_ms": 12.4}),
    (ev.SessionTrouble, {"code": "model_refused", "detail": "Incorrect API key provided", "fatal": True}),
    (ev.OrderPlaced, {"order_id": "01K9Z3VQ8Z", "number": "100001", "basket_revision": 2, "total_eur": "38.50",
                      "customer": "Meyer",
                      "lines": (ev.OrderLine(article_number="101004", name="T-Stück 22 mm", quantity=10,
                                             unit_price_eur="3.85", line_total_eur="38.50"),)}),
)  # fmt: skip

_SOURCES = {ev.OrderPlaced: "catalog_tools", ev.RecordingStored: "recorder"}


def events() -> tuple[ev.CallEvent, ...]:
    """One event of each kind."""
    made = []
    for source, several in (("gw", _GATEWAY), ("wk1", _CONVERSATION)):
        for number, (kind, fields) in enumerate(several, 1):
            by = _SOURCES.get(kind, source)  # type: ignore[call-overload]  # keys are classes of events
            common: dict[str, object] = {"org": ORG, "call": CALL, "at": BEGAN_AT + timedelta(seconds=number)}
            if source == "wk1" and by == source:
                common["epoch"] = 1
            made.append(kind(event_id=ev.event_id(CALL, by, number), **(common | fields)))
    return tuple(made)


def frame() -> tuple[AudioFrame, bytes]:
    """A frame of the caller with 20 ms of silence, and its bytes."""
    made = AudioFrame(Codec.PCM16_8000, Flag.TALKSPURT, 1, 42, 6720, bytes(320), 4800)
    return made, pack(made)


AGENT = AgentConfig(name="bestellung", prompt="Nimm Bestellungen an.")
Exchange = tuple[str, Message, Message | None]
"""Subject, message, and its reply where there is one."""


def exchanges() -> tuple[Exchange, ...]:
    """One message for each subject that carries JSON and is no event, with its reply."""
    done = commands.CommandReply(ok=True)
    offer = Offer(call=CALL, org=ORG, gw=GW, epoch=1, caller=CALLER, callee=CALLEE, agent=AGENT)
    partial = PartialTranscript(
        org=ORG, call=CALL, epoch=1, at=BEGAN_AT, speaker="caller", item=_ITEM, text="Ich brauche zehn"
    )
    request = ToolRequest(
        call=CALL, org=ORG, epoch=1, tool_call_id=TOOL_CALL, name="order_add", caller=CALLER, agent="bestellung",
        arguments={"article_number": "101004", "quantity": 10}, deadline_at=BEGAN_AT + timedelta(seconds=8),
    )  # fmt: skip
    return (
        (subjects.control(ORG, CALL, "leg"), commands.HangUp(), done),
        (subjects.control(ORG, CALL, "agent"), commands.StateChanged(epoch=1, state=CallState(held=True)), done),
        (subjects.live(ORG, CALL, PARTIAL), partial, None),
        (subjects.tool(ORG, "order_add"), request, ToolReply(ok=True, output={"total_eur": "38.50"})),
        (subjects.originate(ORG, "sip"), Originate(to="+49 30 123456", agent="bestellung"),
         OriginateReply(ok=True, call=CALL, gw=GW)),
        (subjects.worker_heartbeat(WK), WorkerHeartbeat(wk=WK, calls=3, capacity=50, load=0.2), None),
        (subjects.gateway_heartbeat(GW), GatewayHeartbeat(gw=GW, calls=3, capacity=150, call_list=(CALL,)), None),
        (subjects.offer(WK), offer, OfferReply(accepted=True, wk=WK, epoch=1)),
        (subjects.release(WK), Release(call=CALL, epoch=1, reason=Reason.CALLER_HUNG_UP, played=51_200), None),
        (subjects.rpc("transcript_store", "get"), RpcRequest(parameters={"call": "last"}),
         RpcReply(ok=True, data={"conversation": {"call": CALL, "outcome": "ordered"}, "turns": []})),
    )  # fmt: skip


def record_exchange() -> tuple[RecordRequest, RecordReply]:
    """How a gateway asks for a recorder (`v1.rpc.recorder.record`)."""
    asked = RecordRequest(call=CALL, org=ORG, gw=GW, rate_hz=8000, answered_at=BEGAN_AT)
    return asked, RecordReply(accepted=True, by=RECORDER)


def entries() -> tuple[tuple[str, str, Message], ...]:
    """Bucket, key and value of one entry in each KV bucket that the contracts describe."""
    entry = CallEntry(
        call=CALL, org=ORG, gw=GW, wk=WK, epoch=1, phase="talking", agent="bestellung", caller=CALLER, callee=CALLEE,
        offered_at=BEGAN_AT.isoformat(),
    )  # fmt: skip
    return (
        (subjects.KV_CALLS, CALL, entry),
        (subjects.KV_CONFIG, AGENT.key, AGENT),
        (subjects.KV_SPEND, f"{ORG}.2026-11-21.{WK}", DaySpending(usd=1.2345)),
    )


GONE = (
    '{"type": "io.nats.server.advisory.v1.client_disconnect", "client": {"name": "' + WK + '-media"}, '
    '"reason": "Client Closed"}'
)
"""What the NATS server says of a connection that ended; its own format, of which the name is read (R5)."""
