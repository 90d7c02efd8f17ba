"""The metrics that every service has: what it is, its event loop, its links to the bus, its events on their way."""

from __future__ import annotations

import asyncio
import gc
from time import perf_counter
from typing import TYPE_CHECKING

import nats.errors

from libs.runtime.metrics import counter, gauge, histogram, matching, one_of
from libs.runtime.version import VERSION

if TYPE_CHECKING:
    from libs.runtime.bus import Bus, Link
    from libs.runtime.outbox import EventOutbox

LOOK_S = 0.25  # at the loop's lag
PING_S = 2.0
PING_WITHIN_S = 1.0
LINKS = ("media", "control")
FIRST_ERRORS = ("frame_without_link", "frame_suspended", "SlowConsumerError")  # shown before there was one
EVENT_ENDS = ("published", "duplicate", "superseded", "unpublishable")

# A frame is 20 ms, the SIP gateway's slots 5 ms: from there on lag is heard, and from 350 ms on others judge us dead.
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 1.0, 5.0)
GARBAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.35)
BUS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.35, 1.0)

BUILD = gauge(
    "callbus_build_info",
    "1; which program this is",
    version=matching(r"\d+\.\d+\.\d+.*", "as in pyproject.toml"),
    service=matching("[a-z_]+", "the service's name"),
    id=matching("[a-z]+-[0-9a-z]+", "of this process from start to end, as the records of its calls name it"),
)
LOOP_LAG = histogram(
    "callbus_event_loop_lag_seconds", "How late the event loop runs what is due, looked at four times a second", LAG_S
)
GARBAGE = histogram(
    "callbus_garbage_collection_seconds",
    "How long Python's garbage collections stopped the process; generation 2 is a full one",
    GARBAGE_S,
    generation=one_of("0", "1", "2"),
)
LINK_UP = gauge("callbus_bus_link_up", "1 while the connection to NATS is up", link=one_of(*LINKS))
RECONNECTS = counter("callbus_bus_reconnects_total", "Connections to NATS that were made again", link=one_of(*LINKS))
BUS_ERRORS = counter(
    "callbus_bus_errors_total",
    "Errors of the connections to NATS; frames that found no link (`frame_without_link`)",
    error=matching("[A-Za-z_]+", "class of the client's error, `frame_without_link` or `frame_suspended`"),
)
MESSAGES = counter(
    "callbus_bus_messages_total", "Messages over NATS", link=one_of(*LINKS), direction=one_of("in", "out")
)
BYTES = counter(
    "callbus_bus_bytes_total", "Payload of messages over NATS", link=one_of(*LINKS), direction=one_of("in", "out")
)
PENDING = gauge("callbus_bus_pending_bytes", "Written by us and not yet taken by the system", link=one_of(*LINKS))
PING = histogram(
    "callbus_bus_ping_seconds",
    "From here to the NATS server and back, asked every two seconds; a message from one process to another takes about "
    "as long",
    BUS_S,
    link=one_of(*LINKS),
)
EVENTS = counter(
    "callbus_events_total", "Events of calls that left the outbox, by what became of them", end=one_of(*EVENT_ENDS)
)
EVENT_RETRIES = counter("callbus_event_retries_total", "Publishes of an event that were not acknowledged")
EVENTS_WAITING = gauge("callbus_events_waiting", "Events that JetStream has not acknowledged yet")


def export(service: str, process_id: str, bus: Bus, outbox: EventOutbox) -> None:
    """Have them read from their sources."""
    links = {"media": (bus.media, bus.media_link), "control": (bus.control, bus.control_link)}
    BUILD.read_from(lambda: {(VERSION, service, process_id): 1.0})
    LINK_UP.read_from(lambda: {name: _up(link) for name, (_, link) in links.items()})
    RECONNECTS.read_from(lambda: {name: link.reconnects for name, (_, link) in links.items()})
    BUS_ERRORS.read_from(lambda: dict.fromkeys(FIRST_ERRORS, 0) | bus.counters)
    PENDING.read_from(lambda: {name: client.pending_data_size for name, (client, _) in links.items()})
    EVENTS.read_from(lambda: {end: outbox.counters[end] for end in EVENT_ENDS})
    EVENT_RETRIES.read_from(lambda: outbox.counters["retried"])
    EVENTS_WAITING.read_from(lambda: outbox.depth)
    MESSAGES.read_from(lambda: _traffic(bus, "msgs"))
    BYTES.read_from(lambda: _traffic(bus, "bytes"))


def _traffic(bus: Bus, unit: str) -> dict[tuple[str, str], float]:
    """What the client counted, `in_msgs` and its like."""
    links = {"media": bus.media, "control": bus.control}
    return {(name, way): client.stats[f"{way}_{unit}"] for name, client in links.items() for way in ("in", "out")}


def _up(link: Link) -> float:
    return float(link.up_at is not None)


def watch_garbage() -> None:
    """Measure collections, from now until the process ends."""
    began_at = 0.0

    def told(phase: str, about: dict[str, int]) -> None:
        nonlocal began_at
        if phase == "start":
            began_at = perf_counter()
        else:
            GARBAGE.observe(perf_counter() - began_at, str(about["generation"]))

    gc.callbacks.append(told)


async def watch_loop() -> None:
    """Measure the event loop's lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        LOOP_LAG.observe(max(0.0, loop.time() - due))


async def watch_bus(bus: Bus) -> None:
    """Measure the way to the NATS server and back until cancelled; `bus.ping_s` has the media link's last one."""
    loop = asyncio.get_running_loop()
    while True:
        for name, client in (("media", bus.media), ("control", bus.control)):
            began_at = loop.time()
            try:
                await client.flush(timeout=PING_WITHIN_S)  # type: ignore[arg-type]  # a float works
            except (nats.errors.Error, OSError, TimeoutError):
                continue  # the link's own gauge and log tell
            took_s = loop.time() - began_at
            PING.observe(took_s, name)
            if name == "media":
                bus.ping_s = took_s
        await asyncio.sleep(PING_S)
