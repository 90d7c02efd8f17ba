"""Generates docs/bus.md, so that it cannot drift: `python -m libs.contracts.document > docs/bus.md`.

Who may publish and hear what is read from deploy/nats/nats.conf, the examples are built by `libs.contracts.examples`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

from libs.contracts import events, examples, subjects
from libs.contracts.model import Message
from libs.contracts.subjects import SUBJECTS

COMMAND = "python -m libs.contracts.document > docs/bus.md"
NATS_CONF = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"

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


_EVERYBODY = "local"  # the person in front of the machine
PARTIES: dict[str, tuple[str, str]] = {
    "v1.<org>.aud.<gw>.<wk>.<call>.up": ("gateway", "the call's worker; recorder, `callbus tap`"),
    "v1.<org>.aud.<gw>.<wk>.<call>.dn": ("the call's worker, or the person who took it over", "the call's gateway"),
    "v1.<org>.aud.<gw>.<wk>.<call>.out": ("gateway, while somebody listens", "recorder, `callbus tap`"),
    "v1.<org>.ctl.<call>.leg": ("worker, recorder, `callbus hangup` and its like", "the call's gateway"),
    "v1.<org>.ctl.<call>.agent": ("the call's gateway", "the call's worker"),
    "v1.<org>.evt.<call>.<kind>": ("gateway, worker, tools, recorder: see below", "transcript_store, `callbus tap`"),
    "v1.<org>.live.<call>.<kind>": ("worker, while somebody watches", "`callbus tap`"),
    "v1.<org>.tool.<name>": ("worker", "the tool's service, in any language"),
    "v1.<org>.originate.<kind>": ("`callbus call`, an API", "one gateway of that entrance"),
    "v1.hb.wk.<wk>": ("worker", "gateways, `callbus doctor`"),
    "v1.hb.gw.<gw>": ("gateway", "gateways, transcript_store, `callbus doctor`"),
    "v1.wk.<wk>.offer": ("gateway", "that worker"),
    "v1.wk.<wk>.release": ("gateway", "that worker"),
    "v1.sys.gone": ("the NATS server", "gateways"),
    "v1.rpc.<service>.<verb>": ("whoever asks: `callbus`, a gateway", "one replica of the service"),
}
_SAMPLES = {"<org>": examples.ORG, "<gw>": examples.GW, "<wk>": examples.WK, "<call>": examples.CALL,
            "<name>": "order_add", "<service>": "recorder", "<verb>": "record"}  # fmt: skip

_HEAD = f"""# The bus

Everything that callbus does goes over NATS: audio, commands, events. This page lists every subject with an example.
It is generated from `libs/contracts` and `deploy/nats/nats.conf`; do not edit. After a change: `{COMMAND}`

Ids match `[A-Za-z0-9_-]+`. Audio frames are msgpack arrays, everything else is JSON. A field that is unknown to a
reader is ignored, an event of an unknown kind is skipped.

## Looking at it

With the [nats command](https://github.com/nats-io/natscli), on the machine that runs `callbus up`:

```sh
export NATS_URL=nats://127.0.0.1:4222      # `callbus doctor` shows the address
nats sub 'v1.*.evt.>'                      # what happens in all calls, now
nats sub 'v1.*.evt.*.caller.turn'          # what callers say
nats sub 'v1.*.evt.{examples.CALL}.>'  # one call
nats stream view EVENTS                    # what happened before
nats sub 'v1.*.tool.*'                     # tool calls, with their replies: --match-replies
nats sub 'v1.hb.>'                         # who is alive, ten times a second each
nats kv watch calls                        # who owns which call
nats req 'v1.rpc.transcript_store.get' '{{"parameters": {{"call": "last"}}}}'
```

`callbus tap CALL` shows the same for people, with partial transcripts and sound: those are published only under a
lease, a `listen` command to `v1.<org>.ctl.<call>.leg` that is renewed before `lease_s` seconds are over.

## Subjects

The last two columns are the users of `nats.conf` (besides `{_EVERYBODY}`, who may do everything) that may publish and
subscribe there.
"""


def event_classes() -> tuple[type[events.CallEvent], ...]:
    """Every class of the event stream's union, in its order."""
    union, *_ = get_args(events.Event)
    return get_args(union)


def permissions(conf: str) -> dict[str, tuple[list[str], list[str]]]:
    """What each user of a nats.conf may publish and subscribe to: patterns by user; one without any may do all."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for user in re.split(r"\{\s*user:\s*", conf)[1:]:
        name = re.match(r"\w+", user)
        lists = [re.search(rf"{what}:\s*\[([^\]]*)\]", user) for what in ("publish", "subscribe")]
        if name is not None:
            publish, subscribe = ([] if one is None else re.findall(r'"([^"]+)"', one[1]) for one in lists)
            found[name[0]] = (publish, subscribe)
    return found


def covers(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` hears `subject` (NATS wildcards)."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == subjects.REST:
        return len(tokens) >= len(wanted) and covers(".".join(wanted[:-1]), ".".join(tokens[: len(wanted) - 1]))
    return len(wanted) == len(tokens) and all(w in (subjects.ANY, t) for w, t in zip(wanted, tokens, strict=True))


def _samples(pattern: str) -> list[str]:
    """Real subjects of a pattern; one for each kind of event, query and entrance that it stands for."""
    for name, value in _SAMPLES.items():
        if name not in ("<service>", "<verb>"):
            pattern = pattern.replace(name, value)
    if ".evt." in pattern:
        return [pattern.replace("<kind>", cls.model_fields["kind"].default) for cls in event_classes()]
    if ".rpc." in pattern:
        return [f"v1.rpc.{service}.{verb}" for service, verb in RPC]
    return [pattern.replace("<kind>", "partial" if ".live." in pattern else "sip")]


RPC = {
    ("transcript_store", "list"): "the stored conversations, the latest first",
    ("transcript_store", "get"): "one conversation with its turns, tool calls, cost and recordings",
    ("catalog_tools", "orders"): "the stored orders",
    ("catalog_tools", "import"): "replace the catalogue by a CSV file",
    ("sip_gateway", "trunks"): "trunks with the state of their registration",
    ("browser_gateway", "token"): "a token for the page",
    ("recorder", "record"): "a gateway asks for a recorder (`libs.contracts.recording`)",
    ("recorder", "read"): "a piece of a recording: parameters `key`, `offset`; data `base64`, `size_bytes`, `next`",
}


def _users(conf: dict[str, tuple[list[str], list[str]]], pattern: str, side: int) -> str:
    there = [
        user
        for user, allowed in conf.items()
        if user != _EVERYBODY and any(covers(one, sample) for one in allowed[side] for sample in _samples(pattern))
    ]
    return ", ".join(there)


def _json(message: Message) -> str:
    fields = message.model_dump(mode="json", exclude_defaults=True)
    return _text({"schema_version": message.schema_version} | _kind(message) | fields)


def _kind(message: Message) -> dict[str, Any]:
    return {"kind": message.kind} if hasattr(message, "kind") else {}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def bus_markdown(conf: str) -> str:
    """The page. `conf` is the text of nats.conf."""
    allowed = permissions(conf)
    lines = [
        _HEAD,
        "| subject | kind | content | published by | heard by | may publish | may subscribe |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in SUBJECTS:
        by, to = PARTIES[row.pattern]
        may = [_users(allowed, row.pattern, side) for side in (0, 1)]
        lines.append(f"| `{row.pattern}` | {row.kind} | {row.content} | {by} | {to} | {may[0]} | {may[1]} |")
    parts = (_message_examples(), _rpc_section(), _kv_section(), _event_section(), _event_examples())
    return "\n".join([*lines, *(line for part in parts for line in part), ""])


def _block(title: str, *texts: str) -> list[str]:
    return ["", title, "", "```json", *texts, "```"]


def _message_examples() -> list[str]:
    frame, data = examples.frame()
    before, after = ", ".join(f"{int(field)}" for field in frame[:5]), frame.played
    shown = f"[{before}, <{len(frame.payload)} bytes>, {after}]"
    up = subjects.audio(examples.ORG, examples.GW, examples.WK, examples.CALL, "up")
    lines = [
        "", "## Examples", "",
        "Fields that have their default value are left out here; on the bus all are written.", "",
        f"`{up}` (and `.dn`, `.out`): {len(data)} bytes, codec, flags, epoch, seq, timestamp, PCM16LE, played:", "",
        "```", f"{shown}", f"{data[:12].hex(' ')} …", "```",
    ]  # fmt: skip
    for subject, message, reply in examples.exchanges():
        texts = [_json(message)] if reply is None else [_json(message), "", "// the reply", _json(reply)]
        lines += _block(f"`{subject}`: {_first_line(type(message))}", *texts)
    return [*lines, *_block(f"`{subjects.GONE}`: the server's own advisory; the name is what is read", examples.GONE)]


def _rpc_section() -> list[str]:
    asked, answered = examples.record_exchange()
    lines = ["", "## Queries", "", "| subject | what it is for |", "|---|---|"]
    lines += [f"| `{subjects.rpc(*verb)}` | {what} |" for verb, what in RPC.items()]
    texts = (_json(asked), "", "// the reply", _json(answered))
    return [*lines, *_block("All take an `RpcRequest` and answer an `RpcReply`, but for `record`:", *texts)]


def _kv_section() -> list[str]:
    lines = ["", "## Key-value buckets"]
    for bucket, key, value in examples.entries():
        lines += _block(f"`$KV.{bucket}.{key}`: {_first_line(type(value))}", _json(value))
    return [*lines, "", f"Bucket `{subjects.KV_SLOTS}` holds who has a place of an organisation's `max_calls`."]


def _event_section() -> list[str]:
    lines = ["", "## Events", "", "| kind | what happened | fields | published by |", "|---|---|---|---|"]
    common = events.CallEvent.model_fields.keys() | {"kind"}
    for cls in event_classes():
        fields = ", ".join(f"`{name}`" for name in cls.model_fields if name not in common)
        lines.append(f"| `{cls.model_fields['kind'].default}` | {_first_line(cls)} | {fields} | {PUBLISHERS[cls]} |")
    shared = ", ".join(f"`{name}`" for name in events.CallEvent.model_fields)
    return [*lines, "", f"Every event also has {shared}."]


def _event_examples() -> list[str]:
    lines: list[str] = ["", "## An example of each kind"]
    for event in examples.events():
        kind = str(_kind(event)["kind"])
        lines += _block(f"`{subjects.event(event.org, event.call, kind)}`", _json(event))
    return lines


def _first_line(cls: type[Message]) -> str:
    return (inspect.getdoc(cls) or "").splitlines()[0]


if __name__ == "__main__":
    sys.stdout.write(bus_markdown(NATS_CONF.read_text("utf-8")))
