"""What the phone says: a queue of speech and digits turned into one RTP packet per tick. No I/O, no clock."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from libs.audio.codec import AudioCodec
from libs.audio.dtmf import DtmfPacket, dtmf_packets
from libs.audio.rtp import pack_header, uint16_add, uint32_add

FRAME_SAMPLES = 160  # of the RTP clock, 8000 Hz for every codec here
_TICK_MS = 20


@dataclass(frozen=True, slots=True)
class RtpStart:
    """First values of an outgoing stream; set them just below the wrap to test roll-over (RFC 3550 §5.1)."""

    sequence_number: int
    timestamp: int
    ssrc: int


class PlayHandle:
    """One piece of queued speech. Times are of `time.monotonic()`, None until they happen."""

    def __init__(self, pcm: bytes) -> None:
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.started = asyncio.Event()
        self.finished = asyncio.Event()
        self.first_timestamp: int | None = None
        self._pcm = pcm
        self._offset = 0

    async def wait(self) -> None:
        """Until the last frame was sent or the speech was stopped."""
        await self.finished.wait()

    def stop(self) -> None:
        """Say no more of it; `finished` is set with the next frame."""
        self._pcm = self._pcm[: self._offset]

    def take(self, length: int) -> bytes:
        """The next bytes, fewer at the end."""
        taken = self._pcm[self._offset : self._offset + length]
        self._offset += len(taken)
        return taken

    @property
    def is_exhausted(self) -> bool:
        return self._offset >= len(self._pcm)


class Talker:
    """Builds the packet of each tick: a digit's event, else queued speech, else silence.

    The timestamp follows the tick number, the sequence number the packets. With `sends_silence` off nothing is sent in
    pauses and the first packet of each talkspurt carries the marker (RFC 3551 §4.1).
    """

    def __init__(self, codec: AudioCodec, payload_type: int, start: RtpStart, telephone_event_pt: int | None) -> None:
        self.sends_silence = True
        self.muted = False
        self.packets = 0
        self._encoder = codec.encoder()
        self._frame_bytes = 2 * codec.rate_hz // 50
        self._payload_type = payload_type
        self._event_pt = telephone_event_pt
        self._start = start
        self._sequence_number = start.sequence_number
        self._first_tick: int | None = None
        self._queue: deque[PlayHandle] = deque()
        self._marker = True
        self._events: deque[DtmfPacket] = deque()
        self._events_done: deque[asyncio.Event] = deque()
        self._events_first_tick = 0
        self._events_timestamp = 0

    def play(self, pcm16: bytes) -> PlayHandle:
        """Queue speech (16-bit little-endian, at the codec's rate) after what is queued already. Raises ValueError."""
        if len(pcm16) % 2:
            raise ValueError(f"{len(pcm16)} bytes are not a whole number of 16-bit samples")
        handle = PlayHandle(pcm16)
        self._queue.append(handle)
        return handle

    def queue_digits(self, digits: str, duration_ms: int = 100, gap_ms: int = 60) -> asyncio.Event:
        """Queue digits as telephone events; the event is set when the last packet was sent. Raises DtmfError."""
        packets = list(dtmf_packets(digits, duration_ms, gap_ms))
        done = asyncio.Event()
        if not packets:
            done.set()
        elif self._events:
            raise RuntimeError("digits are being sent already")
        else:
            self._events.extend(packets)
            self._events_done.append(done)
            self._events_first_tick = -1
        return done

    def packet(self, tick: int, now: float) -> bytes | None:
        """The datagram of this tick; None when nothing is to be sent."""
        if self._first_tick is None:
            self._first_tick = tick
        timestamp = uint32_add(self._start.timestamp, (tick - self._first_tick) * FRAME_SAMPLES)
        if self._events:
            event = self._event_packet(tick, timestamp)
            if event is not None:
                return event
        pcm = self._speech(timestamp, now)
        if not pcm and not self.sends_silence:
            self._marker = True
            return None
        if not pcm or self.muted:
            payload = self._encoder.silence_frame()
        else:
            payload = self._encoder.encode(pcm + bytes(self._frame_bytes - len(pcm)))
        marker, self._marker = self._marker, False
        return self._pack(self._payload_type, timestamp, marker, payload)

    def _pack(self, payload_type: int, timestamp: int, marker: bool, payload: bytes) -> bytes:
        header = pack_header(payload_type, self._sequence_number, timestamp, self._start.ssrc, marker)
        self._sequence_number = uint16_add(self._sequence_number, 1)
        self.packets += 1
        return header + payload

    def _event_packet(self, tick: int, timestamp: int) -> bytes | None:
        """A digit replaces the audio of its ticks (RFC 4733 §2.6); the pauses between digits carry audio."""
        if self._events_first_tick < 0:
            self._events_first_tick, self._events_timestamp = tick, timestamp
        elapsed_ms = (tick - self._events_first_tick) * _TICK_MS
        if self._events[0].at_ms > elapsed_ms:
            return None
        packet = self._events.popleft()
        if not self._events:
            self._events_done.popleft().set()
        assert self._event_pt is not None
        event_timestamp = uint32_add(self._events_timestamp, packet.timestamp_offset)
        return self._pack(self._event_pt, event_timestamp, packet.marker, packet.payload)

    def _speech(self, timestamp: int, now: float) -> bytes:
        pcm = b""
        while self._queue and len(pcm) < self._frame_bytes:
            handle = self._queue[0]
            if handle.started_at is None:
                handle.started_at, handle.first_timestamp = now, timestamp
                handle.started.set()
            pcm += handle.take(self._frame_bytes - len(pcm))
            if handle.is_exhausted:
                handle.finished_at = now
                handle.finished.set()
                self._queue.popleft()
        return pcm

    def close(self) -> None:
        """The call is over: nobody waits for speech or digits any longer."""
        for handle in self._queue:
            handle.finished.set()
        for done in self._events_done:
            done.set()
        self._queue.clear()
        self._events.clear()
        self._events_done.clear()
