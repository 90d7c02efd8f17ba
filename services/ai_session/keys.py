"""The caller's keys, in groups: what is pressed without a pause belongs together, and `#` ends it. Pure."""

from __future__ import annotations

PAUSE_S = 1.5  # between two keys of one group
TERMINATOR = "#"
LONGEST = 64  # no number that somebody types is longer; a key that hangs is told in pieces


class Keys:
    """One call's keys."""

    def __init__(self) -> None:
        self._digits = ""
        self._pressed_at = 0.0

    @property
    def waiting(self) -> bool:
        """A group is not complete."""
        return bool(self._digits)

    def pressed(self, digit: str, now: float) -> str:
        """Take a key; the complete group when this one ends it, or it is full, else nothing. A `#` is a group, too."""
        self._digits += digit
        self._pressed_at = now
        return self._take() if digit == TERMINATOR or len(self._digits) >= LONGEST else ""

    def due(self, now: float) -> str:
        """The group that a pause has completed, if any."""
        return self._take() if self._digits and now - self._pressed_at > PAUSE_S else ""

    def _take(self) -> str:
        digits, self._digits = self._digits, ""
        return digits
