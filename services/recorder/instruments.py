"""The metrics of the recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libs.runtime.metrics import counter, gauge, one_of

ACTIVE = gauge("callbus_recorder_calls", "Calls being recorded")
RECORDINGS = counter(
    "callbus_recorder_recordings_total",
    "Recordings that began, were refused, and what became of them; `not_stored` ones wait in the spool",
    outcome=one_of("begun", "refused", "malformed", "broken", "stored", "not_stored"),
)
STORED = counter("callbus_recorder_stored_bytes_total", "Bytes of recordings in the object store")
FRAMES = counter(
    "callbus_recorder_frames_total",
    "Frames of 20 ms of ended recordings that were made up, left out or came wrong",
    event=one_of("lost", "filled", "repeated", "dropped", "inserted", "malformed", "unknown_codec", "bad_payload"),
)


def export(counters: Callable[[], Mapping[str, int]], active: Callable[[], int]) -> None:
    """Have them read from the recorder's counters."""
    ACTIVE.read_from(active)
    STORED.read_from(lambda: counters().get("stored_bytes", 0))
    RECORDINGS.read_from(lambda: {k: n for k, n in counters().items() if k in RECORDINGS.labels["outcome"].values})
    FRAMES.read_from(lambda: {k.removeprefix("frames_"): n for k, n in counters().items() if k.startswith("frames_")})
