"""What a call's streams have counted: those that have ended, and the present one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libs.call_leg.audio import CallAudio
    from libs.contracts.media import MediaStatistics
    from services.twilio_gateway.line import Line
    from services.twilio_gateway.slices import Slices


class Totals:
    """One per call."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._round_trip_s: float | None = None

    def forget(self, line: Line) -> None:
        """Keep what an ended stream has counted."""
        self._ended.update(line.stream.counters)
        self._ended.update(line.downlink.counters)
        self._round_trip_s = line.downlink.round_trip_s
        self._ended["unsent"] += line.dropped

    def of_all(self, line: Line | None) -> Counter[str]:
        """Messages, gaps, marks, clears so far."""
        now = Counter[str]() if line is None else line.stream.counters + line.downlink.counters
        return self._ended + now

    def statistics(self, line: Line | None, slices: Slices, audio: CallAudio) -> MediaStatistics:
        """Counters of the call so far; "RTP" is the stream's frames here."""
        seen, sent = self._ended, Counter[str]()
        if line is not None:
            seen, sent = seen + line.stream.counters, line.downlink.counters
            self._round_trip_s = line.downlink.round_trip_s
        bus = audio.statistics()
        counted = {
            "rtp_received": slices.frames + seen["duplicate"],
            "rtp_lost": seen["lost"],
            "rtp_duplicate": seen["duplicate"],
            "rtp_foreign": seen["foreign"],
            "rtp_malformed": seen["malformed"],
            "rtp_sent": seen["frames"] + sent["frames"],
            "rtp_unsent": seen["unsent"] + (line.dropped if line else 0),
            "up_dropped": bus.up_dropped + slices.dropped,
            "round_trip_ms": None if self._round_trip_s is None else round(1000 * self._round_trip_s, 1),
        }
        return bus.model_copy(update=counted)
