"""The metrics of a gateway: its calls, who serves them, and their audio between the line and the bus."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

import nats.errors

from libs.call_leg.phase import Phase
from libs.contracts.media import MediaStatistics
from libs.contracts.offer import OfferReply
from libs.contracts.termination import RESULT_OF, Reason, Result, Termination
from libs.runtime.instruments import BUS_S
from libs.runtime.metrics import at_most, at_scrape, counter, gauge, histogram, one_of

ENTRANCE = one_of("sip", "twilio", "browser")
DIRECTION = one_of("inbound", "outbound")
MOST_ORGANISATIONS = 200
LOSSES = one_of("gone", "silent", "failed", "released", "drain")

# An agent that is late by a second is heard; five seconds of ringing are usual, a minute is the longest.
SETUP_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
LENGTH_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
# A worker answers an offer within milliseconds; a failover is to be over within 700 ms.
HANDOVER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
LATENESS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.35, 1.0)

CALLS = gauge(
    "callbus_calls",
    "Calls that this gateway has",
    direction=DIRECTION,
    entrance=ENTRANCE,
    state=one_of(*(phase.value for phase in Phase)),
)
STARTED = counter(
    "callbus_calls_started_total", "Calls that came or were placed", direction=DIRECTION, entrance=ENTRANCE
)
ENDED = counter(
    "callbus_calls_ended_total",
    "Calls by their end (libs/contracts/termination.py); `result` says whose doing it was",
    direction=DIRECTION,
    entrance=ENTRANCE,
    result=one_of(*(result.value for result in Result)),
    reason=one_of(*(reason.value for reason in Reason)),
)
SETUP = histogram("callbus_call_setup_seconds", "From a call's beginning to its answer", SETUP_S, direction=DIRECTION)
TALKED = histogram("callbus_call_talk_seconds", "From the answer to the end", LENGTH_S, direction=DIRECTION)
TRANSFERS = counter(
    "callbus_transfers_total",
    "Transfers by how far they came",
    state=one_of("requested", "ringing", "done", "failed"),
    mode=one_of("refer", "bridge", "dial"),
)
TAKEN_OVER = counter("callbus_takeovers_total", "Calls that a person took from the agent")

OFFER = histogram(
    "callbus_offer_seconds",
    "From an offer to the worker's answer; `nobody` listened there, `silent`: no answer in time",
    HANDOVER_S,
    answer=one_of("accepted", "refused", "nobody", "silent", "failed"),
)
CLAIM = histogram(
    "callbus_claim_seconds",
    "From a call's beginning, or the loss of its owner, until a worker has accepted it",
    HANDOVER_S,
    cause=one_of("first", "failover", "drain"),
)
RECLAIM = histogram(
    "callbus_reclaim_seconds",
    "From the loss of a call's worker, by its cause, until the caller can hear its successor",
    HANDOVER_S,
    cause=LOSSES,
)
LOST = counter("callbus_worker_losses_total", "Owners that calls lost, by cause", cause=LOSSES)
WORKERS = gauge("callbus_workers", "AI workers that this gateway believes alive")
ROSTER = counter(
    "callbus_roster_events_total",
    "Workers that joined, were gone or silent; our own stalls, and times without our own heartbeats, in which nobody "
    "is judged",
    event=one_of("joined", "gone", "silent", "own_stall", "broker_silent"),
)
ONE_WAY = histogram(
    "callbus_bus_one_way_seconds",
    "From one process to another over the bus, measured with our own heartbeats, ten a second",
    BUS_S,
)
REJECTED = counter(
    "callbus_leg_rejected_total",
    "What came over the bus and belongs to nobody, or is malformed",
    kind=one_of("frame_for_unknown_call", "malformed_heartbeat", "malformed_advisory"),
)
SLOTS = counter(
    "callbus_slot_requests_total",
    "Places within an organisation's limits that calls asked for, and troubles with them",
    outcome=one_of("taken", "full", "too_many", "counted_locally", "write_failed", "conflict", "malformed"),
)
SLOTS_HELD = gauge("callbus_slots_held", "Places within organisations' limits that this gateway's calls hold")
BUDGET_USED = gauge(
    "callbus_budget_used_ratio",
    "Share of an organisation's budget of this day (UTC) that is spent, as this gateway knows it; 1: no more calls",
    org=at_most(MOST_ORGANISATIONS, "organisations with a budget"),
)
ORIGINATIONS = counter(
    "callbus_originations_total",
    "Calls that were asked for on the bus",
    outcome=one_of("placed", "refused", "repeated", "malformed"),
)

TICKER = histogram("callbus_ticker_lateness_seconds", "How late the ticker of the calls' audio runs", LATENESS_S)
RING = gauge("callbus_playout_waiting_frames", "Frames of 20 ms that wait to be played, of all calls")
DEEPEST = gauge("callbus_playout_deepest_frames", "Frames of 20 ms that wait in the call with most of them")

_RTP = (
    "received", "lost", "late", "duplicate", "foreign", "malformed", "sent", "unsent", "skipped", "unauthentic",
    "early",
)  # fmt: skip
_RTCP = ("received", "sent", "malformed")
_UP = ("concealed", "filled", "published", "dropped", "bridged", "bridge_dropped")
_DOWN = (
    "received", "control", "stale", "fenced", "malformed", "lost", "played", "trimmed", "flushed", "discarded",
    "underrun", "page_trimmed", "page_underruns", "page_unsent",
)  # fmt: skip
RTP = counter(
    "callbus_rtp_packets_total",
    "Packets of the caller's side (at Twilio and in browsers: messages with audio); see MediaStatistics",
    event=one_of(*_RTP),
)
RTCP = counter("callbus_rtcp_packets_total", "RTCP packets", event=one_of(*_RTCP))
FRAMES = counter(
    "callbus_frames_total",
    "Frames of 20 ms between the line and the bus, `up` to the worker and `down` to the caller; see MediaStatistics",
    direction=one_of("up", "down"),
    event=one_of(*sorted({*_UP, *_DOWN})),
)

_FRAMES: dict[str, tuple[str, str]] = {
    **{f"up_{name}": ("up", name) for name in _UP},
    **{f"dn_{name}": ("down", name) for name in _DOWN},
    "bridge_dropped": ("up", "bridge_dropped"),
    **{name: ("down", name) for name in _DOWN if name.startswith("page_")},
}


_COUNTED = tuple(MediaStatistics().counters())


class MediaTotals:
    """The audio of all calls, ended ones and live ones, as counters that never go back.

    A call that ends is for a moment in neither sum; until it is, the last value stands.
    """

    def __init__(self, ended: Callable[[], Mapping[str, int]], live: Callable[[], Iterable[MediaStatistics]]) -> None:
        self._ended, self._live = ended, live
        self._total: dict[str, int] = {}
        self._waiting: list[int] = []

    def export(self) -> None:
        """Show it."""
        at_scrape("media", self.look)
        RTP.read_from(lambda: {name: self._total.get(f"rtp_{name}", 0) for name in _RTP})
        RTCP.read_from(lambda: {name: self._total.get(f"rtcp_{name}", 0) for name in _RTCP})
        FRAMES.read_from(lambda: {key: self._total.get(name, 0) for name, key in _FRAMES.items()})
        RING.read_from(lambda: sum(self._waiting))
        DEEPEST.read_from(lambda: max(self._waiting, default=0))

    def look(self) -> None:
        """Add up what was counted until now."""
        now = Counter(self._ended())
        self._waiting = []
        for media in self._live():
            for name in _COUNTED:
                now[name] += getattr(media, name)
            self._waiting.append(media.dn_waiting)
        self._total.update((name, count) for name, count in now.items() if count > self._total.get(name, 0))


async def answered(request: Awaitable[bytes]) -> OfferReply:
    """The answer to an offer, timed.

    Raises:
        nats.errors.Error, ValueError, OSError: there was none that could be read.
    """
    loop = asyncio.get_running_loop()
    began_at, answer = loop.time(), "failed"
    try:
        reply = OfferReply.model_validate_json(await request)
        answer = "accepted" if reply.accepted else "refused"
        return reply
    except nats.errors.NoRespondersError:
        answer = "nobody"
        raise
    except (nats.errors.TimeoutError, asyncio.CancelledError):  # the call may end before
        answer = "silent"
        raise
    finally:
        OFFER.observe(loop.time() - began_at, answer)


def echoed(sent_at: str | None, now: float) -> None:
    """Our own heartbeat came back."""
    with suppress(ValueError):
        ONE_WAY.observe(max(0.0, now - float(sent_at or "")))


def show_ends(entrance: str) -> None:
    """Have every end that a call can come to begin at 0: what is there from its first event on has no earlier sample,
    and no `increase` sees that event, nor a burst of them."""
    for direction in DIRECTION.values:
        for reason, result in RESULT_OF.items():
            ENDED.add(direction, entrance, result, reason, by=0)


def refused(direction: str, entrance: str, end: Termination) -> None:
    """A call that got no leg."""
    STARTED.add(direction, entrance)
    ENDED.add(direction, entrance, end.result, end.reason)


class CallClock:
    """The times of one call, from the events that its journal tells. `now` is the event loop's."""

    def __init__(self, direction: str, entrance: str, now: float) -> None:
        self._direction, self._entrance = direction, entrance
        self._began_at = self._seeking_since = now
        self._lost_by = ""
        STARTED.add(direction, entrance)

    def answered(self, now: float) -> None:
        """Both sides hear each other."""
        SETUP.observe(now - self._began_at, self._direction)

    def claimed(self, cause: str, now: float) -> None:
        """A worker accepted."""
        CLAIM.observe(now - self._seeking_since, cause)

    def lost(self, cause: str, now: float) -> None:
        """The owner is lost."""
        LOST.add(cause)
        self._seeking_since, self._lost_by = now, cause

    def heard_again(self, now: float) -> None:
        """The filler is over: the caller can hear the successor."""
        if self._lost_by:
            RECLAIM.observe(now - self._seeking_since, self._lost_by)
            self._lost_by = ""

    def ended(self, result: str, reason: str, talk_s: float) -> None:
        """The call's one end."""
        ENDED.add(self._direction, self._entrance, result, reason)
        if talk_s:
            TALKED.observe(talk_s, self._direction)
