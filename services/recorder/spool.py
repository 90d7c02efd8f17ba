"""Recordings on the local disk until the object store has them: WAV files that can be played at any moment.

A recorder that is killed leaves its file with a header that is at most `HEADER_EVERY_S` old; the rest of the audio
stands behind it. The file is locked until it is stored, or its recorder ends: the next start, or another recorder that
shares the folder, finds what was left, and nothing is stored by two.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Self

from libs.audio.wav import wav_header

HEADER_BYTES = 44
HEADER_EVERY_S = 0.5
LEAST_FREE_BYTES = 20 << 20  # below that nothing is begun: recordings that are going on need it
CHANNELS = 2
_SAMPLE_BYTES = 2 * CHANNELS


@dataclass(frozen=True, slots=True)
class Label:
    """What a file is a recording of; it stands beside it as JSON."""

    org: str
    call: str
    part: str
    rate_hz: int
    started_at: str  # ISO 8601
    is_complete: bool = False  # its recorder came to the end of it

    @property
    def key(self) -> str:
        """Where it goes in the object store."""
        day = datetime.fromisoformat(self.started_at).strftime("%Y/%m/%d")
        return f"recordings/{self.org}/{day}/{self.call}/{self.part}.wav"


class Spooled:
    """One file that is being written, and locked until `close`."""

    def __init__(self, path: Path, label: Label, file: BinaryIO) -> None:
        self.path, self.label = path, label
        self._file = file
        self._pending: list[bytes] = []
        self.data_bytes = 0
        self._header_bytes = 0  # what the header says

    @classmethod
    def create(cls, folder: Path, label: Label) -> Self:
        """Begin a file.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{label.call}.{label.part}.wav"
        file = path.open("xb", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(wav_header(label.rate_hz, CHANNELS, 0))
            _write_label(path, label)
        except OSError:
            remove(path)
            file.close()
            raise
        return cls(path, label, file)

    def add(self, stereo: bytes) -> None:
        """Take audio; it is on the disk after the next `flush`."""
        self._pending.append(stereo)

    def flush(self) -> None:
        """Write what was taken, and the header that tells of it.

        Raises:
            OSError: not all of it could be written; the header tells of what was, the rest is lost.
        """
        left = memoryview(b"".join(self._pending))
        self._pending.clear()
        try:
            while left:
                written = self._file.write(left) or 0  # a disk that is about to be full takes less
                self.data_bytes += written
                left = left[written:]
        finally:
            whole = self.data_bytes - self.data_bytes % _SAMPLE_BYTES
            if self._header_bytes != whole:
                os.pwrite(self._file.fileno(), wav_header(self.label.rate_hz, CHANNELS, whole), 0)
                self._header_bytes = whole

    def complete(self) -> None:
        """Write the rest, and in the label that nothing is missing: it may be another recorder that stores it.

        Raises:
            OSError: that could not be written.
        """
        self.flush()
        self.label = replace(self.label, is_complete=True)
        _write_label(self.path, self.label)

    @property
    def duration_ms(self) -> float:
        """Length of what is on the disk."""
        return self.data_bytes / _SAMPLE_BYTES / self.label.rate_hz * 1000

    def close(self) -> None:
        """Write the rest and give the lock back; the file stays.

        Raises:
            OSError: the rest could not be written.
        """
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()


def require_room(folder: Path) -> None:
    """Return if a recording can be begun there.

    Raises:
        OSError: it cannot be written, or is as good as full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(bytes(HEADER_BYTES))


@dataclass(frozen=True, slots=True)
class Left:
    """A file whose recorder is gone."""

    path: Path
    label: Label
    duration_ms: float
    size_bytes: int


def left_behind(folder: Path, unreadable: Callable[[Path], object] = lambda _: None) -> Iterator[Left]:
    """Files that nobody writes or stores; each with a header that tells its true length, and locked until the next.

    `unreadable` is told of those whose label says nothing: they are for a person to look at.
    """
    for path in sorted(folder.glob("*.wav")):
        try:
            with path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                label = Label(**json.loads(_label_path(path).read_text("utf-8")))
                yield _mended(path, label, file)
        except OSError:  # another recorder has it, or it is another user's
            continue
        except (ValueError, TypeError):
            unreadable(path)


def _mended(path: Path, label: Label, file: BinaryIO) -> Left:
    size = max(0, path.stat().st_size - HEADER_BYTES)
    whole = size - size % _SAMPLE_BYTES
    os.pwrite(file.fileno(), wav_header(label.rate_hz, CHANNELS, whole), 0)
    os.ftruncate(file.fileno(), HEADER_BYTES + whole)
    return Left(path, label, whole / _SAMPLE_BYTES / label.rate_hz * 1000, HEADER_BYTES + whole)


def remove(path: Path) -> None:
    """The object store has it."""
    path.unlink(missing_ok=True)
    _label_path(path).unlink(missing_ok=True)


def _write_label(path: Path, label: Label) -> None:
    """A label is read whole, or as it was before."""
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(asdict(label)), "utf-8")
    new.replace(_label_path(path))


def _label_path(path: Path) -> Path:
    return path.with_suffix(".json")
