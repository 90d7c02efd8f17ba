"""WAV in memory: PCM16 and G.711 in, PCM16 out. No file system access; callers open files."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from libs.audio.g711 import Law

_PCM, _ALAW, _MULAW, _EXTENSIBLE = 1, 6, 7, 0xFFFE
_UNKNOWN_LENGTH = 0xFFFFFFFF


class WavError(ValueError):
    """The data is not a WAV file that this module reads."""


@dataclass(frozen=True, slots=True)
class Wav:
    """Decoded audio: PCM16LE, channels interleaved."""

    pcm: bytes
    rate_hz: int
    channels: int

    @property
    def duration_ms(self) -> int:
        """Length in whole milliseconds."""
        return len(self.pcm) * 1000 // (2 * self.channels * self.rate_hz)


def read_wav(source: bytes | BinaryIO) -> Wav:
    """Read a WAV of 16-bit PCM (tag 1) or G.711 (tags 6 and 7), which is decoded.

    A data chunk that is shorter than its length says, as of a recording cut off, is taken as far as it goes.
    Raises WavError for everything else.
    """
    data = source if isinstance(source, bytes) else source.read()
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise WavError("data does not begin with a RIFF/WAVE header")
    layout: tuple[int, int, int] | None = None
    at = 12
    while at + 8 <= len(data):
        chunk_id, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + length]
        if chunk_id == b"fmt ":
            layout = _read_format(body)
        elif chunk_id == b"data":
            if layout is None:
                raise WavError("data chunk comes before the fmt chunk")
            return _decode(body, *layout)
        at += 8 + length + length % 2  # chunks are padded to an even length
    raise WavError("there is no data chunk")


def _read_format(body: bytes) -> tuple[int, int, int]:
    """Return format tag, channels, rate in Hz."""
    if len(body) < 16:
        raise WavError(f"fmt chunk has {len(body)} bytes, needs at least 16")
    tag, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")  # the GUID of the sub-format begins with the old tag
    if not channels or not rate_hz:
        raise WavError(f"fmt chunk says {channels} channels at {rate_hz} Hz")
    wanted_bits = {_PCM: 16, _ALAW: 8, _MULAW: 8}.get(tag)
    if wanted_bits is None:
        raise WavError(f"format tag {tag} is neither PCM (1) nor A-law (6) nor mu-law (7)")
    if bits != wanted_bits:
        raise WavError(f"format tag {tag} with {bits} bits per sample, only {wanted_bits} are read")
    return tag, channels, rate_hz


def _decode(body: bytes, tag: int, channels: int, rate_hz: int) -> Wav:
    bytes_per_frame = channels * (2 if tag == _PCM else 1)
    body = body[: len(body) - len(body) % bytes_per_frame]
    if tag != _PCM:
        body = (Law.PCMA if tag == _ALAW else Law.PCMU).decode(body)
    return Wav(body, rate_hz, channels)


def wav_header(rate_hz: int, channels: int = 1, data_bytes: int | None = None) -> bytes:
    """Return the 44 byte header of a PCM16 WAV; without `data_bytes` for a stream of unknown length."""
    if data_bytes is None:
        data_bytes, riff_bytes = _UNKNOWN_LENGTH, _UNKNOWN_LENGTH
    else:
        riff_bytes = 36 + data_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", riff_bytes, b"WAVE"),
        *(b"fmt ", 16, _PCM, channels, rate_hz, rate_hz * channels * 2, channels * 2, 16),
        *(b"data", data_bytes),
    )


def write_wav(pcm: bytes, rate_hz: int, channels: int = 1) -> bytes:
    """Return `pcm` (PCM16LE, channels interleaved) as a WAV file."""
    return wav_header(rate_hz, channels, len(pcm)) + pcm
