"""How long a caller waits: from the end of speech to the first delta, the first frame and the ear. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnLatency:
    """Delays of one turn in ms; None where a step had no measurable start (a greeting, say)."""

    response: str
    stopped_to_first_delta_ms: float | None
    stopped_to_first_frame_ms: float | None
    stopped_to_heard_ms: float | None
    tools_ms: float


class LatencyProbe:
    """Measures one turn at a time; answers that the caller did not wait for are not measured."""

    def __init__(self) -> None:
        self.tools_ms = 0.0
        self._tools_at: float | None = None  # tools are running, or counted, since then
        self._stopped_at: float | None = None
        self._response: str | None = None
        self._delta_at = 0.0
        self.frame_due = False  # the shell reports the next frame it sends
        self._frame_at = 0.0

    def reset(self) -> None:
        """The turn was interrupted."""
        self._stopped_at = self._response = None
        self.frame_due = False
        self.tools_ms = 0.0

    def caller_stopped(self, now: float) -> None:
        """The caller's turn is over."""
        self.reset()
        self._stopped_at = now
        if self._tools_at is not None:
            self._tools_at = now

    def tools_began(self, now: float) -> None:
        """The first of some tools runs."""
        self._tools_at = now

    def tools_ended(self, now: float) -> None:
        """The last of them has returned: what counts is the time they took together."""
        if self._tools_at is not None:
            self.tools_ms += (now - self._tools_at) * 1000
        self._tools_at = None

    def first_delta(self, response: str, now: float) -> None:
        """Reply audio begins to arrive."""
        if self._stopped_at is not None and self._response is None:
            self._response, self._delta_at, self.frame_due = response, now, True

    def first_frame(self, now: float) -> None:
        """The first frame of it goes out."""
        self.frame_due, self._frame_at = False, now

    def heard(self, response: str, now: float) -> TurnLatency | None:
        """Its first sample was played; the finished measurement, once per turn."""
        stopped_at = self._stopped_at
        if stopped_at is None or response != self._response:
            return None
        measured = TurnLatency(
            response,
            (self._delta_at - stopped_at) * 1000,
            (self._frame_at - stopped_at) * 1000,
            (now - stopped_at) * 1000,
            self.tools_ms,
        )
        self.reset()
        return measured
