"""The audio frame: msgpack array `[codec, flags, epoch, seq, timestamp, payload, played]`.

Any language with msgpack reads it. Integers on the bus never wrap; only RTP's do. `timestamp` and
`played` count samples of the call's rate within one epoch (R6); `played` stands on `up` frames only.
A trace frame carries an eighth element, the sender's clock in nanoseconds, for measurements.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

import msgpack

FRAME_MS = 20
MAX_PAYLOAD_MS = 60
LIMIT = 1 << 53  # what every language's JSON and msgpack hold; positions can be added without overflow


class Codec(IntEnum):
    """What the payload is: PCM, 16 bit, little endian, mono, at the call's rate."""

    PCM16_8000 = 0
    PCM16_16000 = 3

    @property
    def rate_hz(self) -> int:
        """Samples per second."""
        return 8000 if self is Codec.PCM16_8000 else 16000

    @property
    def frame_samples(self) -> int:
        """Samples in 20 ms."""
        return self.rate_hz * FRAME_MS // 1000

    @classmethod
    def of_rate(cls, rate_hz: int) -> Codec:
        """The codec of a call's rate.

        Raises:
            ValueError: no codec has this rate.
        """
        for codec in cls:
            if codec.rate_hz == rate_hz:
                return codec
        raise ValueError(f"no frame codec has {rate_hz} Hz")


class Flag(IntFlag):
    """Bits of `flags`."""

    TALKSPURT = 1
    CONCEALED = 2
    FLUSH = 4
    FLUSHED = 8
    END_OF_RESPONSE = 16
    TRACE = 32


class FrameError(ValueError):
    """Bytes that are not an audio frame that we can use; `reason` is the counter's label."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class AudioFrame(NamedTuple):
    """One frame; see the module's first lines. `payload` holds 0 to 60 ms of whole samples."""

    codec: int
    flags: int
    epoch: int
    seq: int
    timestamp: int
    payload: bytes
    played: int = 0
    traced_at_ns: int = 0

    @property
    def samples(self) -> int:
        """Number of samples in the payload."""
        return len(self.payload) // 2


_MAX_BYTES = {codec.value: codec.rate_hz * 2 * MAX_PAYLOAD_MS // 1000 for codec in Codec}
_pack = msgpack.Packer(autoreset=True).pack
_unpackb = msgpack.unpackb
_FIELDS = 7
_TRACE = Flag.TRACE.value  # arithmetic on members of an IntFlag costs as much as packing the frame


def pack(frame: AudioFrame) -> bytes:
    """Serialise a frame. A trace stamp is written only with `Flag.TRACE`."""
    packed: bytes = _pack(frame if frame.flags & _TRACE else frame[:_FIELDS])
    return packed


def unpack(data: bytes) -> AudioFrame:
    """Read a frame; fields appended by a newer sender are ignored.

    Raises:
        FrameError: `malformed` (not such an array, or integers that cannot be counts), `unknown_codec`, or
            `bad_payload` (half a sample, more than 60 ms).
    """
    try:
        fields = _unpackb(data)
        codec, flags, epoch, seq, timestamp, payload, played = fields[:_FIELDS]
        limit = _MAX_BYTES.get(codec)
        size = len(payload)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:  # KeyError: a map, from Python 3.12 on
        raise FrameError("malformed", f"not an audio frame: {error}") from None
    if limit is None:
        raise FrameError("unknown_codec", f"codec {codec!r} is unknown here")
    if size > limit or size % 2 or type(payload) is not bytes:
        raise FrameError("bad_payload", f"{size} bytes are not up to {MAX_PAYLOAD_MS} ms of 16-bit samples")
    if not (type(flags) is type(epoch) is type(seq) is type(timestamp) is type(played) is int):
        raise FrameError("malformed", "a frame's flags, epoch, seq, timestamp and played are integers")
    if not (flags >= 0 and 0 <= epoch < LIMIT and 0 <= seq < LIMIT and 0 <= timestamp < LIMIT and 0 <= played < LIMIT):
        raise FrameError("malformed", "a frame's integers lie between 0 and 2^53")
    traced_at_ns = fields[_FIELDS] if flags & _TRACE and len(fields) > _FIELDS else 0
    return AudioFrame(int(codec), flags, epoch, seq, timestamp, payload, played, traced_at_ns)
