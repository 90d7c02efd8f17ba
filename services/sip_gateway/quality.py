"""How good the audio of RTP streams was, for the metrics page: when a stream ends, and at each report of the peer."""

from __future__ import annotations

from libs.contracts.media import MediaStatistics
from libs.runtime.metrics import histogram

# Jitter of a good network is below 5 ms, and our jitter buffer is for 60; a delay of 150 ms each way is what
# ITU-T G.114 recommends at most; speech suffers audibly from 1 % of loss, and cannot be understood from 20 %.
_JITTER = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
_ROUND_TRIP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
_LOSS = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

JITTER = histogram("callbus_rtp_jitter_seconds", "Interarrival jitter of RTP that came, by stream", _JITTER)
LOSS = histogram("callbus_rtp_loss_ratio", "Share of RTP that did not come, by stream", _LOSS)
REMOTE_JITTER = histogram("callbus_rtcp_remote_jitter_seconds", "Jitter of our RTP, by report of the peer", _JITTER)
REMOTE_LOSS = histogram("callbus_rtcp_remote_loss_ratio", "Share of our RTP that the peer missed, by stream", _LOSS)
ROUND_TRIP = histogram(
    "callbus_rtcp_round_trip_seconds", "Round trip, by report of the peer (RFC 3550 6.4.1)", _ROUND_TRIP
)


def observe(media: MediaStatistics) -> None:
    """Count a stream that has ended. What is not known, for want of packets or reports, is left out."""
    due = media.rtp_received + media.rtp_lost
    if media.rtp_received:
        LOSS.observe(media.rtp_lost / due)
    if media.rtp_received and media.rtp_jitter_ms is not None:
        JITTER.observe(media.rtp_jitter_ms / 1000)
    if media.remote_lost is not None and media.rtp_sent:
        REMOTE_LOSS.observe(min(1.0, max(0, media.remote_lost) / media.rtp_sent))  # negative: some arrived twice


def reported(jitter_ms: float | None, round_trip_ms: float | None) -> None:
    """Count what a report of the peer says, one in some seconds and call: a long call is seen while it lasts."""
    if jitter_ms is not None:
        REMOTE_JITTER.observe(jitter_ms / 1000)
    if round_trip_ms is not None:
        ROUND_TRIP.observe(round_trip_ms / 1000)
