"""What the two networks did to a call: the line's RTP, and the bus."""

from __future__ import annotations

from libs.contracts.model import Message


class MediaStatistics(Message):
    """Counters of the call's media at the gateway. They balance, so that no frame is lost unseen; at 20 ms a packet:

    - `rtp_received - rtp_late - rtp_duplicate + up_concealed + up_filled == up_published + up_dropped + up_bridged`,
      but for packets that wait behind a gap, key presses and comfort noise;
    - frames of the worker == `dn_received + dn_stale + dn_fenced + dn_malformed`;
    - `dn_received == dn_control + dn_played + dn_trimmed + dn_flushed + dn_discarded + dn_waiting`.

    What RTCP measures is None where it is unknown (RFC 3550 §6.4.1); `remote_…` is what the peer says of our stream.
    """

    rtp_received: int = 0
    rtp_lost: int = 0  # by sequence number; `up_concealed` of them were made up
    rtp_late: int = 0
    rtp_duplicate: int = 0
    rtp_foreign: int = 0
    rtp_malformed: int = 0
    rtp_sent: int = 0
    rtp_unsent: int = 0  # the system refused them
    rtp_skipped: int = 0  # not made, as this process stood still for longer than a burst can make up for
    up_concealed: int = 0
    up_filled: int = 0  # made up because the network owed frames (R2)
    up_published: int = 0
    up_dropped: int = 0  # faster than real time, or the bus was away
    dn_received: int = 0
    dn_control: int = 0  # frames without audio: claim, end mark, flush
    dn_stale: int = 0
    dn_fenced: int = 0
    dn_malformed: int = 0
    dn_lost: int = 0  # by `seq`, of the present epoch
    dn_played: int = 0
    dn_trimmed: int = 0
    dn_flushed: int = 0
    dn_discarded: int = 0  # unplayed when their epoch ended
    dn_waiting: int = 0
    dn_underrun: int = 0  # the agent's voice ran dry and went on after silence
    rtp_unauthentic: int = 0  # SRTP: wrong key, changed on the way, or replayed
    rtp_early: int = 0  # before the answer; not in `rtp_received`
    rtp_jitter_ms: float | None = None  # as read in slots of 5 ms, which are part of it
    rtcp_received: int = 0
    rtcp_sent: int = 0
    rtcp_malformed: int = 0
    remote_lost: int | None = None  # negative when packets arrived twice
    remote_fraction_lost: float | None = None  # 0 to 1, since the peer's report before the last
    remote_jitter_ms: float | None = None
    round_trip_ms: float | None = None
    up_bridged: int = 0  # handed to the other call of a bridged transfer
    bridge_dropped: int = 0  # of the other call's audio, because too much came

    def counters(self) -> dict[str, int]:
        """What may be added up over calls: all fields that count something here."""
        return {
            name: value for name, value in self if type(value) is int and name not in ("schema_version", "remote_lost")
        }
