"""What happened in a call: the event stream, in the past tense, one class per kind.

Everybody but the gateway and the worker knows a call only through these. An event's id is
`<call>:<source>:<n>`, deterministic, so that a repeated publish is stored once (Nats-Msg-Id).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from libs.contracts.media import MediaStatistics
from libs.contracts.model import Message
from libs.contracts.termination import Termination

Sample = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]


def event_id(call: str, source: str, number: int) -> str:
    """The deterministic id of a source's `number`-th event in a call; `source` is `gw`, `wk<epoch>`, a service."""
    return f"{call}:{source}:{number}"


class CallEvent(Message):
    """Fields of every event. `epoch` is set by workers: it names the attempt that spoke (R7)."""

    event_id: str
    org: str
    call: str
    at: AwareDatetime
    epoch: int | None = None


# -- lifecycle, from the gateway ---------------------------------------------------------------------


class CallOffered(CallEvent):
    """A call arrived (or was placed) and has an id; every attempt has one, rejected ones included."""

    kind: Literal["call.offered"] = "call.offered"
    direction: Literal["inbound", "outbound"] = "inbound"
    entrance: Literal["sip", "twilio", "browser"]
    gw: str
    caller: str
    callee: str
    agent: str | None = None
    route: str | None = None


class CallClaimed(CallEvent):
    """A worker accepted an offer; `epoch` is the attempt's."""

    kind: Literal["call.claimed"] = "call.claimed"
    wk: str
    cause: Literal["first", "failover", "drain", "retry"] = "first"
    previous_wk: str | None = None
    previous_played: Sample | None = None


class CallWaiting(CallEvent):
    """The call rings until a person accepts it (`callbus accept`, `callbus reject`) or `until` has come."""

    kind: Literal["call.waiting"] = "call.waiting"
    until: AwareDatetime


class CallRinging(CallEvent):
    """The callee of an outbound call is being alerted; `status` is SIP's 180 or 183, or its like."""

    kind: Literal["call.ringing"] = "call.ringing"
    status: int = 180
    early_media: bool = False


class CallAnswered(CallEvent):
    """Caller and agent hear each other from here on: 200 OK went out, or for an outbound call came in."""

    kind: Literal["call.answered"] = "call.answered"
    codec: str
    rate_hz: int


class WorkerLost(CallEvent):
    """The gateway judged the call's worker dead or hung (R3, R5); `epoch` is the one it fenced."""

    kind: Literal["call.worker_lost"] = "call.worker_lost"
    wk: str
    cause: Literal["gone", "silent", "failed", "released", "drain"]
    played: Sample
    detail: str = ""


class CallHeld(CallEvent):
    """The call was put on hold or taken back, by the other side or by a command."""

    kind: Literal["call.held"] = "call.held"
    held: bool
    by: Literal["remote", "command"]


class CallTransfer(CallEvent):
    """How a transfer goes: requested, its progress (SIP status of the target), then done or failed, once.

    After `failed` the other side is back with the agent; after `done` the agent has left.
    """

    kind: Literal["call.transfer"] = "call.transfer"
    state: Literal["requested", "ringing", "done", "failed"]
    target: str
    mode: Literal["refer", "bridge", "dial"]
    status: int | None = None
    detail: str = ""


class CallTakenOver(CallEvent):
    """A person took the call from the agent; `epoch` is theirs."""

    kind: Literal["call.taken_over"] = "call.taken_over"
    by: str
    previous_wk: str | None = None
    previous_played: Sample | None = None


class CallMuted(CallEvent):
    """The agent was muted or unmuted by command."""

    kind: Literal["call.muted"] = "call.muted"
    muted: bool


class CallRecording(CallEvent):
    """The recording of the call begins, ends, or is interrupted because its recorder is gone.

    After `lost` another recorder is sought, and `started` follows when there is one; what it makes is a further part.
    """

    kind: Literal["call.recording"] = "call.recording"
    state: Literal["started", "stopped", "lost"]
    by: str = ""  # the recorder
    detail: str = ""


class RecordingStored(CallEvent):
    """A part of the recording can be had: stereo WAV, the caller left, what the caller heard right."""

    kind: Literal["recording.stored"] = "recording.stored"
    key: str  # in the object store
    part: str  # unique within the call
    started_at: AwareDatetime
    duration_ms: float
    rate_hz: int
    size_bytes: int
    is_complete: bool = True  # False: its recorder died, the last second may be missing


class DtmfReceived(CallEvent):
    """The caller pressed a key (RFC 4733 or SIP INFO)."""

    kind: Literal["call.dtmf"] = "call.dtmf"
    digit: str


class DtmfSent(CallEvent):
    """Keys were pressed towards the other side by command."""

    kind: Literal["call.dtmf_sent"] = "call.dtmf_sent"
    digits: str


class SipTraced(CallEvent):
    """One SIP message of the call as it went over the wire, credentials removed (`callbus trace`)."""

    kind: Literal["sip.traced"] = "sip.traced"
    direction: Literal["in", "out"]
    transport: Literal["udp", "tcp", "tls"] = "udp"
    local: str  # host:port
    peer: str  # host:port
    text: str


class CallEnded(CallEvent):
    """The one end of a call. Published once, fenced by the expected last subject sequence (R7)."""

    kind: Literal["call.ended"] = "call.ended"
    termination: Termination
    duration_ms: Milliseconds = 0
    talk_ms: Milliseconds = 0
    media: MediaStatistics = MediaStatistics()


# -- conversation, from the worker ---------------------------------------------------------------------


class CallerTurn(CallEvent):
    """Final transcript of what the caller said in one turn; `failed` when the provider gave none."""

    kind: Literal["caller.turn"] = "caller.turn"
    item: str
    text: str
    failed: bool = False
    started_at: AwareDatetime | None = None


class CallerSpoke(CallEvent):
    """The caller began a turn; its transcript follows as `caller.turn` with the same item."""

    kind: Literal["caller.spoke"] = "caller.spoke"
    item: str


class AgentText(CallEvent):
    """Published before the audio of each sentence: what begins at `from_sample` of this epoch (R8).

    With `up.played` the next worker, or the store, knows which sentences were heard.
    """

    kind: Literal["agent.text"] = "agent.text"
    item: str
    from_sample: Sample
    text: str
    local: bool = False  # said by the worker itself (a filler): the model knows nothing of it


class AgentTurn(CallEvent):
    """The agent's turn is over: played to its end, or interrupted."""

    kind: Literal["agent.turn"] = "agent.turn"
    item: str
    response: str
    text: str
    heard_text: str
    interrupted: bool = False
    audio_ms: Milliseconds
    heard_ms: Milliseconds
    from_sample: Sample = 0
    local: bool = False  # said by the worker itself (a filler): the model knows nothing of it


class CallAnsweredBy(CallEvent):
    """Who took an outbound call, as far as that can be told, and by what sign."""

    kind: Literal["call.answered_by"] = "call.answered_by"
    who: Literal["person", "machine"]
    why: Literal["greeting", "words", "tone", "short_answer", "silence", "time"]


class ToolCalled(CallEvent):
    """The model called a tool."""

    kind: Literal["tool.called"] = "tool.called"
    tool_call_id: str
    name: str
    arguments: dict[str, Any]


class ToolReturned(CallEvent):
    """A tool call ended, well or not; `output` is what the model was told."""

    kind: Literal["tool.returned"] = "tool.returned"
    tool_call_id: str
    name: str
    ok: bool
    output: Any = None
    took_ms: Milliseconds


class UsageReported(CallEvent):
    """What one response or transcription cost; cancelled responses are billed too."""

    kind: Literal["usage.reported"] = "usage.reported"
    source: Literal["response", "transcription", "speech", "session"]
    model: str
    reference: str
    tokens: dict[str, int] = {}
    seconds: float | None = None
    cost_usd: float | None = None


class LatencyMeasured(CallEvent):
    """Delays of one turn, in ms: end of the caller's speech -> first delta -> first frame on the bus -> heard."""

    kind: Literal["latency.measured"] = "latency.measured"
    response: str
    stopped_to_first_delta_ms: Milliseconds | None = None
    stopped_to_first_frame_ms: Milliseconds | None = None
    stopped_to_heard_ms: Milliseconds | None = None
    tools_ms: Milliseconds = 0


class SessionTrouble(CallEvent):
    """The model session had an error that the call survived, or its last one."""

    kind: Literal["session.trouble"] = "session.trouble"
    code: str
    detail: str
    fatal: bool = False


# -- business, from the tools -----------------------------------------------------------------------------


class OrderLine(Message):
    """One line of an order; money as decimal text in euros."""

    article_number: str
    name: str
    quantity: int
    unit: str = "Stück"
    unit_price_eur: str
    line_total_eur: str


class OrderPlaced(CallEvent):
    """An order was stored; its event id is derived from call and basket revision (exactly once)."""

    kind: Literal["order.placed"] = "order.placed"
    order_id: str
    number: str
    basket_revision: int
    lines: tuple[OrderLine, ...]
    total_eur: str
    customer: str | None = None


Event = Annotated[
    CallOffered
    | CallClaimed
    | CallWaiting
    | CallRinging
    | CallAnswered
    | WorkerLost
    | CallHeld
    | CallTransfer
    | CallTakenOver
    | CallMuted
    | CallRecording
    | RecordingStored
    | DtmfReceived
    | DtmfSent
    | SipTraced
    | CallEnded
    | CallerSpoke
    | CallerTurn
    | AgentText
    | AgentTurn
    | CallAnsweredBy
    | ToolCalled
    | ToolReturned
    | UsageReported
    | LatencyMeasured
    | SessionTrouble
    | OrderPlaced,
    Field(discriminator="kind"),
]
