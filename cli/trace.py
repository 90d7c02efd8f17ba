"""`callbus trace`: what a call said over SIP, and how its audio travelled; live or ended."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from rich.console import Console
from rich.text import Text

from cli.bus import bus_address, connected
from cli.commands import live_calls, live_or_past, send
from cli.consoles import PlainConsole
from cli.errors import CliError
from cli.pcap import Datagram, pcap
from cli.settings import CliSettings
from cli.sip_ladder import Ladder, without_credentials
from cli.tap import NO_STREAM, events
from libs.contracts import subjects
from libs.contracts.commands import Describe
from libs.contracts.events import CallEnded, SipTraced
from libs.contracts.wire import event_decoder

LAST_WORDS_S = 1.0  # the answer to a BYE is traced after the call has ended


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How `callbus trace` shows what it finds."""

    pcap: Path | None = None
    follow: bool = False
    as_json: bool = False


@dataclass(slots=True)
class Trace:
    """What the stream holds of one call."""

    call: str
    messages: list[SipTraced] = field(default_factory=list)
    ended: CallEnded | None = None
    media: dict[str, Any] = field(default_factory=dict)  # as it came: a newer gateway's counters are shown as well


async def trace_call(
    console: Console, settings: CliSettings, nats: str | None, wanted: str, options: TraceOptions
) -> None:
    """Print, or write, the trace of a call.

    Raises:
        CliError: the call, or its SIP, is not known.
        OSError: the capture file cannot be written.
    """
    async with connected(bus_address(nats, settings)) as client:
        trace, ladder = Trace(await live_or_past(client, wanted)), Ladder()
        async for message in sip_messages(client, trace, follow=options.follow):
            if options.as_json and options.follow:
                sys.stdout.write(json.dumps(_message(message), ensure_ascii=False) + "\n")
                sys.stdout.flush()
            elif not options.as_json:
                for line in ladder.lines(message):
                    console.print(line, soft_wrap=True)
        if trace.ended is None:
            trace.media = await _media_now(client, trace.call)
    if not trace.messages:
        raise CliError(
            f"no SIP message of call {trace.call} is known: it came by another entrance, or its gateway records none "
            "(`callbus tap` shows its events)"
        )
    if options.pcap is not None:
        options.pcap.write_bytes(pcap(datagrams(trace.messages)))
        said = PlainConsole(stderr=True) if options.as_json else console
        said.print(f"{len(trace.messages)} messages written to {options.pcap}{_carried(trace)}", soft_wrap=True)
    if options.as_json:
        _print_json(trace, options)
    else:
        for line in media_lines(trace.media):
            console.print(line, soft_wrap=True)


async def sip_messages(client: Client, trace: Trace, *, follow: bool) -> AsyncGenerator[SipTraced, None]:
    """The call's messages, credentials removed; with `follow` until it has ended. The rest is kept in `trace`.

    Raises:
        CliError: the stream has no event of this call.
    """
    await _require_events(client, trace.call)
    decoder = event_decoder()
    async for message in _until_done(client, trace, follow):
        event = decoder.decode(message.data)
        if isinstance(event, CallEnded):
            trace.ended = event
            trace.media = json.loads(message.data).get("media", {})
        elif isinstance(event, SipTraced):
            clean = event.model_copy(update={"text": without_credentials(event.text)})
            trace.messages.append(clean)
            yield clean


async def _until_done(client: Client, trace: Trace, follow: bool) -> AsyncGenerator[Msg, None]:
    """Events to the present end of the stream; with `follow` on, until a moment after the call's end."""
    coming = events(client, trace.call)
    try:
        while True:
            try:
                async with asyncio.timeout(LAST_WORDS_S if trace.ended is not None else None):
                    message = await anext(coming)
            except TimeoutError:
                return
            yield message
            if message.metadata.num_pending == 0 and not follow:
                return
    finally:
        await coming.aclose()


async def _require_events(client: Client, call: str) -> None:
    js = client.jetstream()
    try:
        await js.get_last_msg(subjects.EVENTS_STREAM, subjects.events_of(call))
    except NotFoundError:
        try:
            await js.stream_info(subjects.EVENTS_STREAM)
        except NotFoundError:
            raise CliError(NO_STREAM) from None
        raise CliError(
            f"nothing of call {call} is on the bus: the id is wrong, or its events are gone (they are kept for 7 days)"
        ) from None


async def _media_now(client: Client, call: str) -> dict[str, Any]:
    """A live call's counters, as far as its gateway tells them."""
    entry = next((entry for entry in await live_calls(client) if entry.call == call), None)
    if entry is None:
        return {}
    try:
        details = (await send(client, entry, Describe())).details
    except CliError:  # it ended just now, or its gateway is older than the command
        return {}
    media = details.get("media", details)
    return dict(media) if isinstance(media, dict) else {}


def datagrams(messages: list[SipTraced]) -> list[Datagram]:
    """For the capture file."""
    return [
        Datagram(
            one.at, *((one.peer, one.local) if one.direction == "in" else (one.local, one.peer)), one.text.encode()
        )
        for one in messages
    ]


def _carried(trace: Trace) -> str:
    others = sorted({one.transport.upper() for one in trace.messages} - {"UDP"})
    return f"; those over {' and '.join(others)} stand there as UDP" if others else ""


def _message(one: SipTraced) -> dict[str, Any]:
    return one.model_dump(mode="json", include={"at", "direction", "transport", "local", "peer", "text"})


def _print_json(trace: Trace, options: TraceOptions) -> None:
    ended = trace.ended.termination.model_dump(mode="json") if trace.ended is not None else None
    end: dict[str, Any] = {"call": trace.call, "ended": ended, "media": trace.media}
    if options.follow:  # the messages went out line by line
        sys.stdout.write(json.dumps(end, ensure_ascii=False) + "\n")
    else:
        end["messages"] = [_message(one) for one in trace.messages]
        sys.stdout.write(json.dumps(end, ensure_ascii=False, indent=2) + "\n")


# -- statistics ---------------------------------------------------------------------------------------------------

_GROUPS = (
    ("rtp_", "RTP"),
    ("rtcp_", "RTCP"),
    ("round_trip", "RTCP"),
    ("remote_", "the other side says"),
    ("up_", "to the agent"),
    ("dn_", "from the agent"),
    ("bridge_", "bridge"),
)


def media_lines(media: dict[str, Any]) -> list[Text]:
    """The counters in groups; those that are zero are left out, but for packets received, lost and sent."""
    if not media:
        return [Text("no RTP statistics yet: they come with the call's end", style="dim")]
    always = {"rtp_received", "rtp_lost", "rtp_sent"}
    groups: dict[str, list[str]] = {}
    for name, value in media.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or name == "schema_version":
            continue
        if not value and name not in always:
            continue
        prefix, title = next(((p, t) for p, t in _GROUPS if name.startswith(p)), ("", "media"))
        label = _label(name.removeprefix(prefix) if prefix.endswith("_") else name)
        groups.setdefault(title, []).append(f"{label} {_quantity(name, value, media)}")
    return [Text(f"{title:>20}  ", style="bold").append(", ".join(parts), "default") for title, parts in groups.items()]


def _label(name: str) -> str:
    return name.removesuffix("_ms").removeprefix("fraction_").replace("_", " ")


def _quantity(name: str, value: float, media: dict[str, Any]) -> str:
    shown = f"{value:.1f}" if isinstance(value, float) else str(value)
    if name.endswith("_ms"):
        return f"{shown} ms"
    if "fraction_" in name:
        return f"{value * 100:.1f} % lately"
    if name == "rtp_lost" and value and (expected := value + media.get("rtp_received", 0)):
        return f"{shown} ({value / expected * 100:.1f} %)"
    return shown
