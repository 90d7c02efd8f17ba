"""Every subject of the bus, built and parsed here and nowhere else.

The grammar stands in docs/architecture.md; `SUBJECTS` below is what docs/bus.md is generated from.
Builders check each token once: the media connection publishes without validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from libs.contracts.ids import check_token, is_token

VERSION = "v1"
ANY = "*"
REST = ">"

Direction = Literal["up", "dn", "out"]
Side = Literal["leg", "agent"]

EVENTS_STREAM = "EVENTS"
EVENTS_FILTER = f"{VERSION}.*.evt.>"
KV_CALLS = "calls"
KV_CONFIG = "config"
KV_SLOTS = "slots"
KV_SPEND = "spend"
GONE = f"{VERSION}.sys.gone"
WORKER_HEARTBEATS = f"{VERSION}.hb.wk.*"
GATEWAY_HEARTBEATS = f"{VERSION}.hb.gw.*"
DIRECTIONS: tuple[Direction, ...] = ("up", "dn", "out")


class SubjectError(ValueError):
    """A subject that does not follow the grammar."""


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """One line of the generated subject table."""

    pattern: str
    kind: str
    content: str


SUBJECTS: tuple[SubjectRow, ...] = (
    SubjectRow("v1.<org>.aud.<gw>.<wk>.<call>.up", "core", "caller's audio frames, 50 a second (R2)"),
    SubjectRow("v1.<org>.aud.<gw>.<wk>.<call>.dn", "core", "agent's audio frames, fenced by epoch"),
    SubjectRow("v1.<org>.aud.<gw>.<wk>.<call>.out", "core", "what the caller hears, while recorded or tapped"),
    SubjectRow("v1.<org>.ctl.<call>.leg", "core request-reply", "commands to the call leg"),
    SubjectRow("v1.<org>.ctl.<call>.agent", "core request-reply", "commands of the gateway to the session"),
    SubjectRow("v1.<org>.evt.<call>.<kind>", "JetStream EVENTS", "the call's event stream"),
    SubjectRow("v1.<org>.live.<call>.<kind>", "core, under a lease", "partial transcripts, levels"),
    SubjectRow("v1.<org>.tool.<name>", "core request-reply, NATS micro", "tool calls"),
    SubjectRow("v1.<org>.originate.<kind>", "core request-reply, queue group", "place an outbound call"),
    SubjectRow("v1.hb.wk.<wk>", "core", "worker heartbeat, every 100 ms"),
    SubjectRow("v1.hb.gw.<gw>", "core", "gateway heartbeat, every 100 ms"),
    SubjectRow("v1.wk.<wk>.offer", "core request-reply", "a call offered to this worker"),
    SubjectRow("v1.wk.<wk>.release", "core", "a call taken from this worker"),
    SubjectRow("v1.sys.gone", "core", "disconnect advisories, imported from the system account"),
    SubjectRow("v1.rpc.<service>.<verb>", "core request-reply, queue group", "queries"),
)


def _tokens(**parts: str) -> list[str]:
    return [part if part == ANY else check_token(part, what) for what, part in parts.items()]


@dataclass(frozen=True, slots=True)
class AudioSubject:
    """`v1.<org>.aud.<gw>.<wk>.<call>.<direction>`."""

    org: str
    gw: str
    wk: str
    call: str
    direction: Direction

    def __str__(self) -> str:
        return audio(self.org, self.gw, self.wk, self.call, self.direction)


def audio(org: str, gw: str, wk: str, call: str, direction: Direction | Literal["*"]) -> str:
    """Subject of a call's frames; `*` is allowed for every part (subscriptions)."""
    return ".".join([VERSION, *_tokens(org=org), "aud", *_tokens(gateway=gw, worker=wk, call=call), direction])


def worker_uplink(wk: str) -> str:
    """The one subscription of a worker: frames of all calls that it owns."""
    return audio(ANY, ANY, wk, ANY, "up")


def gateway_downlink(gw: str) -> str:
    """The one subscription of a gateway: frames of all its calls, from whatever worker."""
    return audio(ANY, gw, ANY, ANY, "dn")


def parse_audio(subject: str) -> AudioSubject:
    """Read an audio subject.

    Raises:
        SubjectError: it is not one.
    """
    match subject.split("."):
        case ["v1", org, "aud", gw, wk, call, ("up" | "dn" | "out") as direction] if all(
            map(is_token, (org, gw, wk, call))
        ):
            return AudioSubject(org, gw, wk, call, direction)
    raise SubjectError(f"{subject!r} is not an audio subject")


def control(org: str, call: str, side: Side) -> str:
    """Commands to one side of a call; only the gateway addresses `agent` (R7)."""
    return ".".join([VERSION, *_tokens(org=org), "ctl", *_tokens(call=call), side])


def event(org: str, call: str, kind: str) -> str:
    """Subject of one event; `kind` may be dotted (`call.offered`)."""
    for part in kind.split("."):
        check_token(part, "event kind")
    return ".".join([VERSION, *_tokens(org=org), "evt", *_tokens(call=call), kind])


def events_of(call: str, org: str = ANY) -> str:
    """Filter for everything that happened in one call."""
    return ".".join([VERSION, *_tokens(org=org), "evt", *_tokens(call=call), REST])


def events_of_kind(kind: str) -> str:
    """Filter for one kind of event over all calls."""
    return ".".join([VERSION, ANY, "evt", ANY, kind])


@dataclass(frozen=True, slots=True)
class EventSubject:
    """`v1.<org>.evt.<call>.<kind>`, `kind` with its dots."""

    org: str
    call: str
    kind: str


def parse_event(subject: str) -> EventSubject:
    """Read an event subject.

    Raises:
        SubjectError: it is not one.
    """
    match subject.split("."):
        case ["v1", org, "evt", call, *kind] if kind and all(map(is_token, (org, call, *kind))):
            return EventSubject(org, call, ".".join(kind))
    raise SubjectError(f"{subject!r} is not an event subject")


def live(org: str, call: str, kind: str) -> str:
    """Subject of a passing value (partial transcript, level), published only under a watcher's lease."""
    return ".".join([VERSION, *_tokens(org=org), "live", *_tokens(call=call, kind=kind)])


def tool(org: str, name: str) -> str:
    """Subject of a tool; services listen with `*` as organisation."""
    return ".".join([VERSION, *_tokens(org=org), "tool", *_tokens(tool=name)])


def originate(org: str, kind: str) -> str:
    """Where an outbound call is asked for, by kind of entrance (`sip`, `twilio`)."""
    return ".".join([VERSION, *_tokens(org=org), "originate", *_tokens(kind=kind)])


def worker_heartbeat(wk: str) -> str:
    """Heartbeat of one worker."""
    return ".".join([VERSION, "hb", "wk", *_tokens(worker=wk)])


def gateway_heartbeat(gw: str) -> str:
    """Heartbeat of one gateway."""
    return ".".join([VERSION, "hb", "gw", *_tokens(gateway=gw)])


def offer(wk: str) -> str:
    """Directed offer to one worker."""
    return ".".join([VERSION, "wk", *_tokens(worker=wk), "offer"])


def release(wk: str) -> str:
    """Takes a call from one worker."""
    return ".".join([VERSION, "wk", *_tokens(worker=wk), "release"])


def rpc(service: str, verb: str) -> str:
    """Query to a service, answered by one of its replicas."""
    return ".".join([VERSION, "rpc", *_tokens(service=service, verb=verb)])
